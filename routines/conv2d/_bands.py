"""What the tiles of a convolution read: the map itself, or a copy of a band of it that makes tiles regular."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from softneuro_tvm.graph import Workload

from .._blocked import Blocked
from .._tir import Expr, Kernel, all_of, ceil_div, element, round_up
from ._tiles import nest


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution: x [N, C, H, W], weight [K, C, R, S], y [N, K, OH, OW]."""

    n: int
    c: int
    h: int
    w: int
    k: int
    oh: int
    ow: int
    r: int
    s: int
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]

    @staticmethod
    def of(workload: Workload) -> Geometry:
        """Sizes of a conv2d workload."""
        a, (n, k, oh, ow) = workload.attributes, workload.outputs[0].shape
        _, c, h, w = workload.inputs[0].shape
        _, _, r, s = workload.weight_types["weight"].shape
        return Geometry(n, c, h, w, k, oh, ow, r, s, a.strides, a.padding, a.dilation)

    @property
    def is_pointwise(self) -> bool:
        """True if every output reads one position, without padding."""
        return (self.r, self.s) == (1, 1) and not any(self.padding)

    @property
    def is_flat(self) -> bool:
        """True for a plain matrix product over positions."""
        return self.is_pointwise and self.strides == (1, 1)


@dataclass(frozen=True)
class Band:
    """Output rows of a task (for the ``flat`` source: output positions).

    Args:
        n: Image.
        first: First row.
        rows: Number of rows.
        height: Largest number of rows of any band.
        is_tall: Whether this band has that many; otherwise it has one less.
    """

    n: Expr
    first: Expr
    rows: Expr
    height: int
    is_tall: Expr


@dataclass(frozen=True)
class Source:
    """Where the tiles of a band read.

    Args:
        buffer: Map or copy.
        at: ``at(b, r, s)``: offset of reduction block `b` under kernel position (r, s), for the band's first output.
        row: Elements from one output row to the next.
        position: Elements from one output position to the next.
        channel: Elements from one channel of a reduction block to the next.
    """

    buffer: Any
    at: Callable[[Expr, Expr, Expr], Expr]
    row: int
    position: int
    channel: int


def reduction_block(channels: int, block: int, lanes: int) -> int:
    """Input channels of one step of the outer reduction loop: divides the layout's block, wastes less than 4.

    With short vectors, one loop body: LLVM unrolls an inner loop, and moves loads upwards until accumulators spill.
    """
    if block == 1:
        return next(size for size in (4, 3, 2, 1) if channels % size == 0)
    sizes = (16, 8, 4) if lanes > 4 and element() == "float32" else (4,)
    return next(size for size in sizes if block % size == 0 and round_up(channels, 4) % size == 0)


def _copy(target: Any, at: Expr, source: Any, start: Expr, elements: int, lanes: int) -> None:
    """Copies consecutive elements, or writes zeros if `source` is None."""
    k, done = Kernel, elements // lanes * lanes

    def piece(offset: Expr, size: int) -> None:
        k.store(
            target, at + offset, k.splat(0.0, size) if source is None else k.load(source, start + offset, size), size
        )

    if done:
        with nest(done // lanes) as (i,):
            piece(i * lanes, lanes)
    while done < elements:
        size = 1 << ((elements - done).bit_length() - 1)
        piece(done, size)
        done += size


def _copy_even(target: Any, at: Expr, source: Any, start: Expr, elements: int, lanes: int) -> None:
    """Copies every second element; vectors never reach beyond the last one."""
    k, done, size = Kernel, 0, lanes
    while done < elements:
        count = (elements - done - 1) // size if size > 1 else elements - done
        if count:
            with nest(count) as (i,):
                into, first = at + done + i * size, start + (done + i * size) * 2
                if size == 1:
                    k.store(target, into, source[first], 1)
                else:
                    even = [tirx.const(2 * lane, "int32") for lane in range(size)]
                    k.store(target, into, tirx.Shuffle([k.load(source, first, 2 * size)], even), size)
        done, size = done + count * size, max(1, size // 2)


class BandReader:
    """Makes the sources of a convolution's bands.

    Args:
        geometry: Sizes.
        source: The map.
        lanes: float32 lanes of a vector.
    """

    def __init__(self, geometry: Geometry, source: Blocked, lanes: int) -> None:
        self.g, self.map, self.lanes = geometry, source, lanes
        self.block = reduction_block(geometry.c, source.block, lanes)

    def read(self, how: str, x: Any, band: Band) -> Source:
        """The source of a band: one of the four kinds that `direct` explains."""
        match how:
            case "flat":
                return self._flat(x, band)
            case "none":
                return self._rows_of_map(x, band)
            case "rows":
                return self._copy_rows(x, band)
            case "columns":
                return self._copy_columns(x, band)
        raise ValueError(f"there is no source {how!r}")

    def scratch_elements(self, how: str, height: int) -> int:
        """Elements of the copy of a band of `height` output rows."""
        plane = {"rows": self._rows_shape(height)[1], "columns": self._columns_shape(height)[3]}.get(how, 0)
        return self.map.blocks * plane

    def _channel(self, base: Expr, plane: int, b: Expr) -> Expr:
        """Offset of reduction block `b`, where `plane` elements lie between the map's channel blocks."""
        if self.map.block == 1:
            return base + b * (self.block * plane)
        if self.map.blocks == 1:
            return base + b * self.block
        per = self.map.block // self.block
        return base + b * plane if per == 1 else base + b // per * plane + b % per * self.block

    def _source(self, buffer: Any, at: Callable[[Expr, Expr], Expr], plane: int, row: int, position: int) -> Source:
        """A source from the offset of a kernel position in the first channel block."""
        channel = plane if self.map.block == 1 else 1
        return Source(buffer, lambda b, r, s: self._channel(at(r, s), plane, b), row, position, channel)

    def _flat(self, x: Any, band: Band) -> Source:
        m = self.map
        base = m.offset(band.n, 0, 0, band.first)
        return self._source(x, lambda r, s: base, m.plane, 0, m.block)

    def _rows_of_map(self, x: Any, band: Band) -> Source:
        m, (sy, sx), (dy, dx) = self.map, self.g.strides, self.g.dilation
        base = m.offset(band.n, 0, band.first * sy, 0)

        def offset(r: Expr, s: Expr) -> Expr:
            return base + r * (dy * m.row) + s * (dx * m.block)

        return self._source(x, offset, m.plane, sy * m.row, sx * m.block)

    def _rows_shape(self, height: int) -> tuple[int, int]:
        """Positions of a copied row, and elements of a channel block's copy."""
        g = self.g
        width = (g.ow - 1) * g.strides[1] + (g.s - 1) * g.dilation[1] + 1
        return width, ((height - 1) * g.strides[0] + (g.r - 1) * g.dilation[0] + 1) * width * self.map.block

    def _copy_rows(self, x: Any, band: Band) -> Source:
        k, g, m, lanes = Kernel, self.g, self.map, self.lanes
        (sy, sx), (dy, dx), (top, left, _, _) = g.strides, g.dilation, g.padding
        width, plane = self._rows_shape(band.height)
        left = min(left, width)
        inside = min(g.w, width - left)
        row = width * m.block
        scratch = k.scratch(m.blocks * plane)
        with nest(m.blocks, (band.rows - 1) * sy + (g.r - 1) * dy + 1) as (b, y):
            at, line = k.bind(b * plane + y * row), k.bind(band.first * sy + y - top)

            def inner() -> None:
                _copy(scratch, at, None, 0, left * m.block, lanes)
                _copy(scratch, at + left * m.block, x, m.offset(band.n, b, line, 0), inside * m.block, lanes)
                done = left + inside
                _copy(scratch, at + done * m.block, None, 0, (width - done) * m.block, lanes)

            k.when(all_of(line >= 0, line < g.h), inner, lambda: _copy(scratch, at, None, 0, row, lanes))

        def offset(r: Expr, s: Expr) -> Expr:
            return r * (dy * row) + s * (dx * m.block)

        return self._source(scratch, offset, plane, sy * row, sx * m.block)

    def _columns_shape(self, height: int) -> tuple[dict[int, int], int, int, int]:
        """Rows beyond the band by phase; elements of a phase, of a kernel column, and of a channel block's copy.

        A phase holds the input rows of one remainder modulo the vertical stride, so that they lie side by side.
        """
        g, sy, dy = self.g, self.g.strides[0], self.g.dilation[0]
        beyond: dict[int, int] = {}
        for r in range(g.r):
            beyond[r * dy % sy] = r * dy // sy
        phase = (height + max(beyond.values())) * g.ow * self.map.block
        return beyond, phase, (max(beyond) + 1) * phase, g.s * (max(beyond) + 1) * phase

    def _copy_columns(self, x: Any, band: Band) -> Source:
        k, g, m, lanes = Kernel, self.g, self.map, self.lanes
        (sy, sx), (dy, dx), (top, left, _, _) = g.strides, g.dilation, g.padding
        beyond, phase_size, column, plane = self._columns_shape(band.height)
        row = g.ow * m.block
        scratch = k.scratch(m.blocks * plane)

        def copy_line(b: Expr, s: int, at: Expr, line: Expr) -> None:
            low = min(g.ow, max(0, ceil_div(left - s * dx, sx)))
            high = max(low, min(g.ow, (g.w - 1 + left - s * dx) // sx + 1))
            start = m.offset(band.n, b, line, low * sx + s * dx - left)
            into = at + low * m.block
            _copy(scratch, at, None, 0, low * m.block, lanes)
            if sx == 1:
                _copy(scratch, into, x, start, (high - low) * m.block, lanes)
            elif m.block == 1 and sx == 2:
                _copy_even(scratch, into, x, start, high - low, lanes)
            elif high > low:
                with nest(high - low) as (i,):
                    _copy(scratch, into + i * m.block, x, start + i * (sx * m.block), m.block, lanes)
            _copy(scratch, at + high * m.block, None, 0, (g.ow - high) * m.block, lanes)

        with nest(m.blocks) as (b,):
            for s in range(g.s):
                for phase, more in beyond.items():
                    with nest(band.rows + more) as (y,):
                        at = k.bind(b * plane + (s * column + phase * phase_size) + y * row)
                        line = k.bind((band.first + y) * sy + (phase - top))
                        k.when(
                            all_of(line >= 0, line < g.h),
                            lambda s=s, at=at, line=line: copy_line(b, s, at, line),  # type: ignore[misc]
                            lambda at=at: _copy(scratch, at, None, 0, row, lanes),  # type: ignore[misc]
                        )

        def offset(r: Expr, s: Expr) -> Expr:
            phase = 0 if len(beyond) == 1 else r * dy % sy * phase_size
            return s * column + phase + r * dy // sy * row

        return self._source(scratch, offset, plane, row, m.block)
