"""Buffers, their lifetimes, and the least memory that any placement of them needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

ALIGNMENT = 64
"""Bytes: a cache line, and what TVM's kernels assume of every argument."""


@dataclass(frozen=True)
class Buffer:
    """Memory that one tensor needs for a while.

    Args:
        size_bytes: How much.
        first: Step that writes it.
        last: Last step that reads it; it may be overwritten by the next step, or by this one where `reuses` says so.
        reuses: Positions of buffers that the step `first` reads and in whose place it may write this one.
    """

    size_bytes: int
    first: int
    last: int
    reuses: tuple[int, ...] = ()

    def overlaps(self, other: Buffer) -> bool:
        """True if both are needed during some step."""
        return self.first <= other.last and other.first <= self.last


def aligned(size_bytes: int) -> int:
    """Rounded up to `ALIGNMENT`."""
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """The largest sum of aligned sizes that any step needs; in-place permissions are not used."""
    if not buffers:
        return 0
    change = np.zeros(max(buffer.last for buffer in buffers) + 2, dtype=np.int64)
    for buffer in buffers:
        change[buffer.first] += aligned(buffer.size_bytes)
        change[buffer.last + 1] -= aligned(buffer.size_bytes)
    return int(change.cumsum().max())


def share(buffers: Sequence[Buffer]) -> tuple[list[Buffer], list[int]]:
    """Joins buffers that may be written in place of one that is read for the last time.

    Of several such inputs the first is taken. No step gets to need more by this.

    Returns:
        The joined buffers, and for each given one the position of the joined one that holds it.
    """
    joined: list[Buffer] = []
    place = [-1] * len(buffers)
    holder: list[int] = []
    for position in sorted(range(len(buffers)), key=lambda i: buffers[i].first):
        buffer = buffers[position]
        free = (r for r in buffer.reuses if holder[place[r]] == r and joined[place[r]].last == buffer.first)
        source = next((r for r in free if buffers[r].size_bytes == buffer.size_bytes), None)
        if source is None:
            place[position] = len(joined)
            joined.append(replace(buffer, reuses=()))
            holder.append(position)
        else:
            place[position] = place[source]
            joined[place[source]] = replace(joined[place[source]], last=buffer.last)
            holder[place[source]] = position
    return joined, place
