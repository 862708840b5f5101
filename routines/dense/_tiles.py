"""Register tiles of matrix products: rows times vectors of columns, over a packed panel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .._lanes import Rows
from .._tir import Expr, Kernel, cache_line, ceil_div
from .._vectors import shuffle

UNROLL = 4
"""Steps of the reduction in one loop body. With more, LLVM moves loads upwards until accumulators spill."""

MIN_CHAINS = 8
"""Independent multiply-add chains that keep the units busy: two units, latency four."""

Split = tuple[tuple[int, int], ...]
"""Pieces of an extent: pairs (count, size), in order."""


def split_evenly(extent: int, largest: int) -> Split:
    """Cuts an extent into the fewest pieces of at most `largest`; sizes differ by one at most, larger ones first."""
    number = ceil_div(extent, largest)
    size = ceil_div(extent, number)
    large = extent - number * (size - 1)
    return tuple((count, width) for count, width in ((large, size), (number - large, size - 1)) if count)


@dataclass(frozen=True)
class Panel:
    """The right side: element (c, column) is ``buffer[first + c * width + column]``, `width` columns being all.

    Args:
        buffer: Where the panel lies.
        first: Its first element.
        ahead: Distance in elements at which cache lines are prefetched while the panel is read.
        prefetched: Cache lines to prefetch for each `UNROLL` steps of the reduction.
    """

    buffer: Any
    first: Expr
    ahead: Expr = 0
    prefetched: int = 0


@dataclass
class Tile:
    """Accumulators of `rows` x `vectors` vectors; small tiles keep several partial sums of each.

    Args:
        k: Where to.
        rows: Rows of the product.
        vectors: Vectors of columns; the panel's rows have vectors x lanes elements.
        lanes: Elements of a vector.
    """

    k: Kernel
    rows: int
    vectors: int
    lanes: int

    def __post_init__(self) -> None:
        self.chains = next((n for n in (1, 2) if self.rows * self.vectors * n >= MIN_CHAINS), UNROLL)
        # one buffer for each vector: larger ones are not always promoted to registers
        self.sums = {
            (i, j, chain): self.k.scratch(self.lanes)
            for i in range(self.rows)
            for j in range(self.vectors)
            for chain in range(self.chains)
        }

    def _add(self, i: int, j: int, chain: int, value: Expr) -> None:
        """Adds to an accumulator."""
        buffer = self.sums[i, j, chain]
        self.k.store(buffer, 0, self.k.load(buffer, 0, self.lanes) + value, self.lanes)

    def product(self, rows: Rows, panel: Panel, depth: tuple[Expr, int], start: Callable[[int, int], Expr]) -> None:
        """Computes ``sum[i, j] = start(i, j) + sum over c of row[i][c] * panel[c][j]``.

        Args:
            rows: Left side.
            panel: Right side.
            depth: Number of c: `UNROLL` times the first, plus the second.
            start: First value of accumulator (i, j).
        """
        k, lanes, width = self.k, self.lanes, self.vectors * self.lanes
        for (i, j, chain), buffer in self.sums.items():
            k.store(buffer, 0, k.splat(0.0, lanes) if chain else start(i, j), lanes)

        def steps(c: Expr, number: int) -> None:
            at = k.bind(panel.first + c * width)
            left = replace(rows, starts=[k.bind(start + c * rows.stride) for start in rows.starts])
            for line in range(panel.prefetched):
                k.prefetch(panel.buffer, at + panel.ahead + line * cache_line())
            for u in range(number):
                columns = [k.bind(k.load(panel.buffer, at + u * width + j * lanes, lanes)) for j in range(self.vectors)]
                for i in range(self.rows):
                    value = k.bind(left.broadcast(i, u, number, lanes))
                    for j, column in enumerate(columns):
                        self._add(i, j, u % self.chains, value * column)

        blocks, rest = depth
        if not isinstance(blocks, int) or blocks:
            with k.loop(blocks) as block:
                steps(block * UNROLL, UNROLL)
        if rest:
            steps(blocks * UNROLL, rest)
        for i, j, chain in self.sums:
            if chain:
                self._add(i, j, 0, k.load(self.sums[i, j, chain], 0, lanes))

    def add(self, i: int, j: int, value: Expr) -> None:
        """Adds to accumulator (i, j), after `product`."""
        self._add(i, j, 0, value)

    def value(self, i: int, j: int) -> Expr:
        """Accumulator (i, j), after `product`."""
        return self.k.load(self.sums[i, j, 0], 0, self.lanes)


def columns_of(vector: int, lanes: int, total: int) -> list[tuple[int, int]]:
    """How a vector of columns is stored when only `total` columns exist: pairs (lane, number of lanes)."""
    missing, lane, found = total - vector * lanes, 0, []
    while lane < min(lanes, missing):
        size = 1 << (min(lanes, missing - lane).bit_length() - 1)
        found.append((lane, size))
        lane += size
    return found


def part_of(vector: Expr, lanes: int, lane: int, size: int) -> Expr:
    """`size` lanes of a vector, from `lane` on."""
    return vector if size == lanes else shuffle([vector], lanes, range(lane, lane + size))
