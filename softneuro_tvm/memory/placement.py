"""Fast placement of buffers: several greedy orders, then repairs of the one that came out best.

Source: Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference (2020), greedy by size and by
breadth; best fit among the gaps.
"""

from __future__ import annotations

from collections.abc import Sequence

from softneuro_tvm.memory.buffers import Buffer, aligned, lower_bound

REPAIRS = 300
"""Attempts to lower a peak by placing the buffer that makes it earlier."""


class Placement:
    """Places buffers one after the other.

    Args:
        buffers: What to place, without in-place permissions.
    """

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self.buffers = buffers
        self.sizes = [aligned(buffer.size_bytes) for buffer in buffers]
        self.neighbours = [
            [j for j, other in enumerate(buffers) if j != i and buffer.overlaps(other)]
            for i, buffer in enumerate(buffers)
        ]

    def place(self, order: Sequence[int]) -> list[int]:
        """Offsets, each buffer in the smallest gap between its neighbours that holds it."""
        offsets = [-1] * len(self.buffers)
        for i in order:
            placed = sorted((offsets[j], offsets[j] + self.sizes[j]) for j in self.neighbours[i] if offsets[j] >= 0)
            offsets[i] = _best_fit(placed, self.sizes[i])
        return offsets

    def height(self, offsets: Sequence[int]) -> int:
        """Bytes that a placement needs."""
        return max((offset + size for offset, size in zip(offsets, self.sizes, strict=True)), default=0)

    def orders(self) -> list[list[int]]:
        """Orders to try: by size, duration, area, breadth and first step, large ones first."""
        positions = range(len(self.buffers))
        duration = [buffer.last - buffer.first + 1 for buffer in self.buffers]
        breadth = [self.sizes[i] + sum(self.sizes[j] for j in self.neighbours[i]) for i in positions]
        keys = [
            lambda i: (-self.sizes[i], -duration[i]),
            lambda i: (-duration[i], -self.sizes[i]),
            lambda i: (-self.sizes[i] * duration[i], -self.sizes[i]),
            lambda i: (-breadth[i], -self.sizes[i]),
            lambda i: (self.buffers[i].first, -self.sizes[i]),
        ]
        return [sorted(positions, key=key) for key in keys]


def _best_fit(placed: Sequence[tuple[int, int]], size: int) -> int:
    """Offset of the smallest gap between (begin, end) pairs, sorted by begin; above them all if none is enough."""
    best, smallest, top = -1, -1, 0
    for begin, end in placed:
        gap = begin - top
        if gap >= size and (best < 0 or gap < smallest):
            best, smallest = top, gap
        top = max(top, end)
    return top if best < 0 else best


def place_greedily(buffers: Sequence[Buffer]) -> list[int]:
    """Offsets by the best of the greedy orders, repaired until it needs no more than the lower bound.

    A repair moves the buffers that stick out above the bound half-way to the front of the order, and places all anew.
    """
    placement, bound = Placement(buffers), lower_bound(buffers)
    tried = [(placement.place(order), order) for order in placement.orders()]
    best, order = min(tried, key=lambda pair: placement.height(pair[0]))
    offsets = best
    for _ in range(REPAIRS):
        if placement.height(best) <= bound:
            break
        order = _promoted(order, {i for i in order if offsets[i] + placement.sizes[i] > bound})
        offsets = placement.place(order)
        best = min(best, offsets, key=placement.height)
    return best


def _promoted(order: Sequence[int], raised: set[int]) -> list[int]:
    """The order with some elements half-way nearer to the front."""
    key = {item: (position // 2, 0) if item in raised else (position, 1) for position, item in enumerate(order)}
    return sorted(order, key=key.__getitem__)
