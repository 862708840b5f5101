"""Exact placement of few buffers by branch and bound.

Some best placement can be built from the bottom up: taken in order of their offsets, each buffer lies on the floor or
on top of the highest neighbour placed before it (pushing a buffer down never hurts the others). So the search is over
orders, and offsets never fall along an order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from softneuro_tvm.memory.buffers import Buffer, aligned, lower_bound


class _Search:
    """Depth-first search over orders of placement.

    Args:
        buffers: What to place, without in-place permissions.
        offsets: A placement to beat.
        nodes: How many partial placements to look at.
    """

    def __init__(self, buffers: Sequence[Buffer], offsets: Sequence[int], nodes: int) -> None:
        self.buffers = buffers
        self.sizes = [aligned(buffer.size_bytes) for buffer in buffers]
        self.best = list(offsets)
        self.height = max(offset + size for offset, size in zip(offsets, self.sizes, strict=True))
        self.bound = lower_bound(buffers)
        self.nodes = nodes
        steps = max(buffer.last for buffer in buffers) + 1
        self.heights = np.zeros(steps, dtype=np.int64)
        self.waiting = np.zeros(steps, dtype=np.int64)
        for buffer, size in zip(buffers, self.sizes, strict=True):
            self.waiting[buffer.first : buffer.last + 1] += size
        self.offsets = [-1] * len(buffers)

    def run(self) -> bool:
        """Searches; True if the best placement found is proved to be the best there is."""
        self._extend(0, -1, len(self.buffers))
        return self.nodes > 0 or self.height <= self.bound

    def _extend(self, floor: int, previous: int, left: int) -> None:
        """Places one more buffer, at `floor` or above, in every useful way.

        Args:
            floor: Offset of the buffer placed before.
            previous: That buffer.
            left: Number of buffers that are not placed.
        """
        if left == 0:
            self.height, self.best = int(self.heights.max()), list(self.offsets)
            return
        options = []
        for i, buffer in enumerate(self.buffers):
            if self.offsets[i] < 0:
                offset = int(self.heights[buffer.first : buffer.last + 1].max())
                if offset > floor or (offset == floor and i > previous):
                    options.append((offset, -self.sizes[i], i))
        for offset, _, i in sorted(options):
            if self.nodes <= 0 or self.height <= self.bound:
                return
            self.nodes -= 1
            span, size = slice(self.buffers[i].first, self.buffers[i].last + 1), self.sizes[i]
            below = self.heights[span].copy()
            self.offsets[i], self.heights[span] = offset, offset + size
            self.waiting[span] -= size
            lowest = np.where(self.waiting > 0, np.maximum(self.heights, offset) + self.waiting, self.heights)
            if int(lowest.max()) < self.height:
                self._extend(offset, i, left - 1)
            self.offsets[i], self.heights[span] = -1, below
            self.waiting[span] += size


def improve(buffers: Sequence[Buffer], offsets: Sequence[int], nodes: int) -> tuple[list[int], bool]:
    """Looks for the best placement.

    Args:
        buffers: What to place, without in-place permissions.
        offsets: A placement to start from.
        nodes: How many partial placements to look at, at most.

    Returns:
        Offsets that need no more than the given ones, and whether they are proved best.
    """
    if not buffers:
        return [], True
    search = _Search(buffers, offsets, nodes)
    proved = search.run()
    return search.best, proved
