"""The plan of an arena: which buffer lies where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from softneuro_tvm.memory.buffers import Buffer, aligned, lower_bound, share
from softneuro_tvm.memory.exact import improve
from softneuro_tvm.memory.nesting import Within, outermost
from softneuro_tvm.memory.placement import place_greedily

NODES = 20_000
"""Partial placements that the exact search looks at: all of them for about a dozen buffers."""

EXACT_BUFFERS = 40
"""Beyond so many buffers an exact search would not get far."""


@dataclass(frozen=True)
class Arena:
    """Offsets of buffers in one block of memory.

    Args:
        offsets: Of each buffer, in bytes; multiples of `ALIGNMENT`.
        size_bytes: What the block needs.
        lower_bound_bytes: The most that any step needs at once, buffers written in place counted once.
        proved: True if no placement needs less, with these buffers written in place.
    """

    offsets: tuple[int, ...]
    size_bytes: int
    lower_bound_bytes: int
    proved: bool


def plan_arena(buffers: Sequence[Buffer], within: Within | None = None) -> Arena:
    """Places buffers so that none overlaps another one that is needed at the same time, in little memory.

    Equal buffers give equal plans.

    Args:
        buffers: Sizes, lifetimes and in-place permissions.
        within: Which of them lie within which others, and where; offsets that are multiples of `ALIGNMENT`.
    """
    roots, inside = outermost(buffers, within or {})
    joined, place = share(roots)
    bound = lower_bound(joined)
    offsets = place_greedily(joined)
    proved = _height(joined, offsets) <= bound
    if not proved and len(joined) <= EXACT_BUFFERS:
        offsets, proved = improve(joined, offsets, NODES)
    begins = tuple(offsets[place[root]] + offset for root, offset in inside)
    return Arena(begins, _height(joined, offsets), bound, proved)


def _height(buffers: Sequence[Buffer], offsets: Sequence[int]) -> int:
    return max((o + aligned(b.size_bytes) for o, b in zip(offsets, buffers, strict=True)), default=0)
