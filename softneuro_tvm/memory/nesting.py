"""Buffers that lie within others: the parts of a concatenation, and slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from softneuro_tvm.memory.buffers import Buffer

Within = Mapping[int, tuple[int, int]]
"""For each buffer that lies within another one: the position of that one, and the offset in it in bytes."""


def outermost(buffers: Sequence[Buffer], within: Within) -> tuple[list[Buffer], list[tuple[int, int]]]:
    """The buffers that lie within no other one, each needed as long as anything within it.

    What lies within another buffer is never written in place of a third one, nor is anything written in its place.

    Args:
        buffers: All of them, with their own lifetimes.
        within: Which of them lie within which; may be nested.

    Returns:
        The outermost buffers, and for each given one the position of the outermost one that holds it and its offset
        therein in bytes.
    """
    place = [_holder(position, within) for position in range(len(buffers))]
    found = [position for position in range(len(buffers)) if position not in within]
    number = {position: i for i, position in enumerate(found)}
    first, last = [buffers[position].first for position in found], [buffers[position].last for position in found]
    for buffer, (holder, _) in zip(buffers, place, strict=True):
        i = number[holder]
        first[i], last[i] = min(first[i], buffer.first), max(last[i], buffer.last)
    roots = []
    for i, position in enumerate(found):
        buffer = buffers[position]
        # what is written piece by piece must not begin where another buffer is still read
        reused = buffer.reuses if first[i] == buffer.first else ()
        reuses = tuple(number[other] for other in reused if other in number)
        roots.append(replace(buffer, first=first[i], last=last[i], reuses=reuses))
    return roots, [(number[holder], offset) for holder, offset in place]


def _holder(position: int, within: Within) -> tuple[int, int]:
    """The outermost buffer that holds one, and the offset in it."""
    offset = 0
    while position in within:
        position, more = within[position]
        offset += more
    return position, offset
