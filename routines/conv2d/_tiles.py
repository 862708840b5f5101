"""Register tiles of matmul-like kernels: positions x output-channel vectors, and how extents are cut into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from .._lanes import Rows
from .._tir import Expr, Kernel, ceil_div

Split = tuple[tuple[int, int], ...]
"""Pieces of an extent: pairs (count, size), in order."""

UNROLL = 4
"""Steps of the reduction in one loop body. With more, LLVM moves loads upwards until accumulators spill."""

MIN_CHAINS = 8
"""Independent multiply-add chains that keep the units busy: two units, latency four."""


@contextmanager
def nest(*extents: Expr) -> Iterator[list[Expr]]:
    """Nested loops; an extent of 1 gives no loop."""
    with ExitStack() as stack:
        yield [0 if isinstance(n, int) and n == 1 else stack.enter_context(Kernel.loop(n)) for n in extents]


def split_evenly(extent: int, largest: int) -> Split:
    """Cuts an extent into the fewest pieces of at most `largest`; sizes differ by one at most, larger ones first."""
    pieces = ceil_div(extent, largest)
    size = ceil_div(extent, pieces)
    large = extent - pieces * (size - 1)
    return tuple((count, width) for count, width in ((large, size), (pieces - large, size - 1)) if count)


def common_split(extents: Sequence[int], largest: int) -> tuple[int, list[tuple[int, int]]]:
    """Cuts several extents into pieces of the same two sizes, which differ by one.

    Returns:
        The larger size, at most `largest`; for each extent the number of larger and of smaller pieces.
    """
    for size in range(largest, 0, -1):
        pieces = [ceil_div(extent, size) for extent in extents]
        counts = [(e - n * (size - 1), n * size - e) for e, n in zip(extents, pieces, strict=True)]
        if all(large >= 0 for large, _ in counts):
            return size, counts
    raise ValueError(f"extents {list(extents)} cannot be cut")


@dataclass
class Tile:
    """Accumulators: `width` rows (positions) of `vectors` vectors of `lanes` columns (output channels).

    A tile of few accumulators keeps several partial sums of each (`chains`), so that multiply-adds overlap.
    """

    k: Kernel
    width: int
    vectors: int
    lanes: int

    def __post_init__(self) -> None:
        self.chains = next((n for n in (1, 2) if self.width * self.vectors * n >= MIN_CHAINS), UNROLL)
        # one small buffer for each position: larger ones would not be promoted to registers
        self.sums = [self.k.scratch(self.chains * self.vectors * self.lanes) for _ in range(self.width)]

    def _at(self, j: int, chain: int = 0) -> int:
        return (chain * self.vectors + j) * self.lanes

    def start(self, first: Callable[[int, int, int], Expr], part: int) -> None:
        """Sets the accumulators.

        Args:
            first: Initial value of row i, vector j, from lane `lane`: a vector of `part` lanes.
            part: Lanes that are loaded at once; divides `lanes`.
        """
        for i, buffer in enumerate(self.sums):
            for j in range(self.vectors):
                for lane in range(0, self.lanes, part):
                    self.k.store(buffer, self._at(j) + lane, first(i, j, lane), part)
                for chain in range(1, self.chains):
                    self.k.store(buffer, self._at(j, chain), self.k.splat(0.0, self.lanes), self.lanes)

    def accumulate(self, rows: Rows, vectors: Any, offset: Expr, stride: int, steps: int) -> None:
        """Some steps of the reduction: step u adds ``rows[i, u] * vectors[offset + u * stride, j]`` to each sum."""
        k, lanes = self.k, self.lanes
        for u in range(steps):
            chain = u % self.chains
            row = offset + u * stride
            columns = [k.load(vectors, row + j * lanes, lanes) for j in range(self.vectors)]
            for i, buffer in enumerate(self.sums):
                value = rows.broadcast(i, u, steps, lanes)
                for j, column in enumerate(columns):
                    at = self._at(j, chain)
                    k.store(buffer, at, k.load(buffer, at, lanes) + value * column, lanes)

    def combine(self) -> None:
        """Adds up the partial sums."""
        for buffer in self.sums:
            for chain in range(1, self.chains):
                for j in range(self.vectors):
                    both = self.k.load(buffer, self._at(j), self.lanes) + self.k.load(
                        buffer, self._at(j, chain), self.lanes
                    )
                    self.k.store(buffer, self._at(j), both, self.lanes)

    def add(self, i: int, j: int, lane: int, part: int, value: Expr) -> None:
        """Adds to `part` lanes of accumulator (i, j) from lane `lane`; after `combine`."""
        self.k.store(self.sums[i], self._at(j) + lane, self.value(i, j, lane, part) + value, part)

    def value(self, i: int, j: int, lane: int, part: int) -> Expr:
        """`part` lanes of accumulator (i, j) from lane `lane`; after `combine`."""
        return self.k.load(self.sums[i], self._at(j) + lane, part)


def for_each_group(k: Kernel, groups: Split, part: Expr, parts: int, body: Callable[[int, Expr], None]) -> None:
    """Emits `body(size, start)` for the pieces of a split that fall to one of `parts` equal shares.

    Args:
        k: The kernel.
        groups: How the extent is cut.
        part: Index of the share.
        parts: Number of shares.
        body: Writes the code of a piece of `size`, known now, from `start`, known then.
    """
    if parts == 1:
        first = 0
        for count, size in groups:
            with nest(count) as (i,):
                body(size, first + i * size)
            first += count * size
        return
    total = sum(count for count, _ in groups)
    share = ceil_div(total, parts)

    def choose(index: Expr, kind: int, before: int, first: int) -> None:
        count, size = groups[kind]
        is_last = kind == len(groups) - 1
        k.when(
            True if is_last and share * parts == total else index < before + count,
            lambda: body(size, first + (index - before) * size),
            None if is_last else lambda: choose(index, kind + 1, before + count, first + count * size),
        )

    with nest(share) as (i,):
        choose(k.bind(part * share + i), 0, 0, 0)
