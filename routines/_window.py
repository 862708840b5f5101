"""Sliding windows over feature maps: which input rows and columns an output tile reads, borders included.

Rows are bounded while the kernel runs; columns are peeled while it is generated, so that no input is ever copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload

from ._tir import Expr, Kernel, ceil_div

MOST_TAPS = 512
"""Multiply-adds that are unrolled in one tile at most."""


@dataclass(frozen=True)
class Columns:
    """Neighbouring tiles of output columns that one loop computes.

    Args:
        first: First output column of the first tile.
        count: Number of tiles; 1 where a tile touches the border.
        width: Output columns of a tile.
        inside: True if no tile reads padding.
        step: Output columns from the start of one tile to that of the next.
    """

    first: int
    count: int
    width: int
    inside: bool
    step: int


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution or pooling; pairs are (vertical, horizontal).

    Args:
        kernel: Extents R, S.
        strides: Distance of output positions, in input positions.
        dilation: Distance of kernel positions, in input positions.
        padding: Rows above and columns to the left of the input.
        source: Input extents H, W.
        target: Output extents OH, OW.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]
    source: tuple[int, int]
    target: tuple[int, int]

    @staticmethod
    def of(workload: Workload, kernel: tuple[int, int]) -> Window:
        """The window of a conv2d or pool2d workload."""
        attributes = workload.attributes
        return Window(
            kernel,
            attributes.strides,
            attributes.dilation,
            attributes.padding[:2],
            workload.inputs[0].shape[2:],  # type: ignore[arg-type]
            workload.outputs[0].shape[2:],  # type: ignore[arg-type]
        )

    def rows(self, y: Expr) -> tuple[Expr, Expr, Expr]:
        """Input row of kernel row 0, and the range of kernel rows that lie inside the input, for output row `y`."""
        top = y * self.strides[0] - self.padding[0]
        last = self.target[0] - 1
        reach = (self.kernel[0] - 1) * self.dilation[0]
        begin: Expr = 0
        end: Expr = self.kernel[0]
        if self.padding[0] > 0:
            begin = T.max(0, (self.dilation[0] - 1 - top) // self.dilation[0])
        if last * self.strides[0] - self.padding[0] + reach >= self.source[0]:
            end = T.min(end, (self.source[0] - 1 - top) // self.dilation[0] + 1)
        return top, begin, end

    def left(self, x: Expr) -> Expr:
        """Input column of kernel column 0 for output column `x`."""
        return x * self.strides[1] - self.padding[1]

    def tiles(self, limit: int) -> Iterator[Columns]:
        """Splits the output columns into tiles of at most `limit`, as equal as possible."""
        reach = (self.kernel[1] - 1) * self.dilation[1]
        number = ceil_div(self.target[1], limit)
        narrow, wider = divmod(self.target[1], number)
        first, found = 0, []
        for tile in range(number):
            width = narrow + (tile < wider)
            inside = self.left(first) >= 0 and self.left(first + width - 1) + reach < self.source[1]
            found.append(Columns(first, 1, width, inside, width))
            first += width
        yield from joined(found)

    def feeds(self, columns: Columns) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Input columns that a tile reads, from `left(tile)` on, each with (output column, kernel column) it feeds.

        Columns in the padding are left out.
        """
        found: dict[int, list[tuple[int, int]]] = {}
        for i in range(columns.width):
            for s in range(self.kernel[1]):
                found.setdefault(i * self.strides[1] + s * self.dilation[1], []).append((i, s))
        left = self.left(columns.first)
        for column in sorted(found):
            if columns.inside or 0 <= left + column < self.source[1]:
                yield column, found[column]


def joined(tiles: Iterable[Columns]) -> Iterator[Columns]:
    """Single tiles as runs: neighbours of the same width, a step apart, that read no padding become one loop."""
    run: Columns | None = None
    for tile in tiles:
        if run and run.inside and tile == replace(run, first=run.first + run.count * run.step, count=1):
            run = replace(run, count=run.count + 1)
            continue
        if run:
            yield run
        run = tile
    if run:
        yield run


def sweep(k: Kernel, window: Window, limit: int) -> Iterator[tuple[Columns, Expr]]:
    """Emits the loops over tiles of output columns; yields each tile and its first column inside its loop."""
    for columns in window.tiles(limit):
        if columns.count == 1:
            yield columns, columns.first
            continue
        with k.loop(columns.count) as tile:
            yield columns, columns.first + tile * columns.step


def tile_columns(device: Device, window: Window, taps: int, vectors: int = 1, holds_input: bool = False) -> int:
    """Output columns of a tile of some `vectors` whose accumulators, with `taps` weights, fill the vector registers.

    Somewhat narrower tiles are taken where fewer of them are special; the kernel's width bounds the size of the code.
    If the tile holds its input, every input column takes a register, too.
    """
    free = device.vector_registers - 1 - taps
    widest = max(1, min(min(14, max(8, free)) // vectors, MOST_TAPS // taps, window.target[1]))
    if holds_input:
        reach = (window.kernel[1] - 1) * window.dilation[1] + 4
        step = vectors + window.strides[1]
        widest = max(1, min(widest, (device.vector_registers - taps - reach) // step))
    return min(range(widest, widest * 2 // 3, -1), key=lambda columns: len(list(window.tiles(columns))))
