"""The kernel behind `pooled_stem`: a blocked convolution whose tiles are pooled as soon as they are done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.conv_pool import ConvPool
from softneuro_tvm.layers.pool2d import Pool2dAttributes
from softneuro_tvm.routine import Variant

from .._blocked import Blocked
from .._tir import Expr, all_of, ceil_div, lowest
from .._window import Window
from ..conv2d._bands import Band
from ..conv2d._blocked_conv import CHEAP, BlockedConvolution
from ..conv2d._tiles import Split, Tile, nest, split_evenly


def convolution(variant: Variant) -> Variant:
    """The variant of the blocked convolution inside."""
    return replace(variant, params=(*variant.params, ("copy", "rows"), ("parts", 1), ("steps", 1)))


def convolved_rows(pool: Pool2dAttributes, rows: int) -> int:
    """Rows of the convolution for which the input is copied with that of some pooled rows."""
    return rows * pool.strides[0] + max(0, pool.kernel[0] - pool.strides[0])


class PooledConvolution(BlockedConvolution):
    """Writes the kernel of one variant.

    Args:
        workload: A convolution with one group, and its pooling.
        variant: Parameters of the convolution's tiles; `bands` of pooled rows; pooled `rows` for which the input is
            copied at a time.
        device: Gives registers, threads and cache.
    """

    def __init__(self, workload: Workload, variant: Variant, device: Device) -> None:
        parts = ConvPool().part_workloads(workload)
        super().__init__(parts["conv"], convolution(variant), device)
        pool = parts["pool"]
        self.window, self.rows = Window.of(pool, pool.attributes.kernel), int(variant["rows"])
        self.is_max = pool.attributes.mode == "max"
        self.target = Blocked(pool.outputs[0].shape, self.target.layout)
        self.height = convolved_rows(pool.attributes, self.rows)
        self.first: Expr = 0
        self.last: Expr = self.window.target[0]

    def _band(self, n: Expr, index: Expr) -> Band:
        """Pooled rows of a task."""
        extent = self.window.target[0]
        first, last = (self.k.bind((index + end) * extent // self.bands) for end in (0, 1))
        return Band(n, first, self.k.bind(last - first), ceil_div(extent, self.bands), True)

    def _task(self, band: Band, part: Expr) -> None:
        """A few rows after the other: what their windows start from, then the convolution."""
        k, stride, above = self.k, self.window.strides[0], self.window.padding[0]
        steps = k.bind((band.rows + (self.rows - 1)) // self.rows) if self.rows < band.height else 1
        self.first, self.last = band.first, k.bind(band.first + band.rows)
        with nest(steps) as (step,):
            y = k.bind(band.first + step * self.rows)
            behind = k.bind(T.min(y + self.rows, self.last))
            self._clear(band.n, y, behind - y)
            beyond = T.Select(behind == self.last, max(0, self.window.kernel[0] - stride), 0)
            begin = k.bind(T.max(y * stride - above, 0))
            end = T.min(behind * stride - above + beyond, self.g.oh)
            super()._task(Band(band.n, begin, k.bind(T.max(end - begin, 0)), self.height, True), part)

    def _clear(self, n: Expr, first: Expr, rows: Expr) -> None:
        """Writes what a maximum or a sum starts from."""
        k, y = self.k, self.target
        with nest(y.blocks, rows * self.window.target[1]) as (block, position):
            at = y.offset(n, block, first, position)
            k.store(self.buffers["y"], at, k.splat(lowest() if self.is_max else 0.0, y.block), y.block)

    def _columns(self, widest: int) -> Split:
        """Tiles begin where a window could without padding."""
        stride, extent = self.window.strides[1], self.g.ow
        (count, size), *others = split_evenly(ceil_div(extent, stride), max(1, widest // stride))
        pieces = [(number, stride * length) for number, length in ((count, size), *others)]
        missing = sum(number * length for number, length in pieces) - extent
        if missing:
            number, length = pieces.pop()
            pieces += [(number - 1, length)] * (number > 1) + [(1, length - missing)]
        return tuple(pieces)

    def _windows(self, width: int) -> Iterator[tuple[int, range, bool]]:
        """Windows of a tile: index from the tile's first, columns of the tile, whether these are all."""
        extent, stride, left = self.window.kernel[1], self.window.strides[1], self.window.padding[1]
        for index in range(-((extent - 1 - left) // stride), (width - 1 + left) // stride + 1):
            start = index * stride - left
            columns = range(max(0, start), min(width, start + extent))
            if columns:
                yield index, columns, index >= 0 and start + extent <= width

    def _finish(self, tile: Tile, n: Expr, group: Any, place: Any) -> None:
        """Pools a tile along its row, and adds the result to the windows of the rows that it belongs to."""
        k, part, window = self.k, self.part_lanes, self.window
        row, left = k.bind(place.position // self.g.ow), k.bind(place.position % self.g.ow // window.strides[1])
        values = self._values(tile, group)
        below = k.bind(row + window.padding[0])
        found = []
        for j in range(tile.vectors):
            for lane in range(0, self.lanes, part):
                for index, columns, is_whole in self._windows(tile.width):
                    total = values(columns[0], j, lane)
                    for i in columns[1:]:
                        total = T.max(total, values(i, j, lane)) if self.is_max else total + values(i, j, lane)
                    if not self.is_max:
                        total = total * k.splat(1 / (window.kernel[0] * window.kernel[1]), part)
                    found.append((j, lane, index, is_whole, k.pin(total, part)))

        def add(y: Expr) -> None:
            for j, lane, index, is_whole, total in found:
                at, exists = self._y(n, group, j, lane, y * window.target[1] + left + index)
                inside = True if is_whole else all_of(left + index >= 0, left + index < window.target[1])

                def combine(at: Expr = at, total: Expr = total) -> None:
                    old = k.load(self.buffers["y"], at, part)
                    k.store(self.buffers["y"], at, T.max(old, total) if self.is_max else old + total, part)

                k.when(all_of(exists, inside), combine)

        for above in range(ceil_div(window.kernel[0], window.strides[0])):
            y = k.bind(below // window.strides[0] - above)
            reaches = below - y * window.strides[0] < window.kernel[0]
            k.when(all_of(y >= self.first, y < self.last, reaches), partial(add, y))

    def _values(self, tile: Tile, group: Any) -> Any:
        """Gives the activated values of a tile: position, vector, first lane."""
        k, part = self.k, self.part_lanes

        def finished(value: Expr, j: Expr, lane: int) -> Expr:
            channel = (group.first + j) * self.lanes + lane
            return self.epilogue.finish(value, part, None, lambda: k.load(self.buffers["slope"], channel, part))

        if self.epilogue.activation.name in CHEAP:
            return lambda i, j, lane: finished(tile.value(i, j, lane, part), j, lane)
        size = tile.vectors * self.lanes
        stored = k.stack(tile.width * size)
        for i in range(tile.width):
            for j in range(tile.vectors):
                k.store(stored, i * size + j * self.lanes, tile.value(i, j, 0, self.lanes), self.lanes)
        with nest(tile.width * size // part) as (piece,):
            value = k.load(stored, piece * part, part)
            k.store(stored, piece * part, self.epilogue.finish(value, part, None, None), part)
        return lambda i, j, lane: k.load(stored, i * size + j * self.lanes + lane, part)
