"""What the tiles of an 8-bit convolution read: the map itself, or a copy of a band of it, padded and converted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from softneuro_tvm.graph import Workload
from softneuro_tvm.layers._quantized import QuantizedAttributes

from ._blocked import Blocked
from ._int8 import Dot, converted_zero
from ._tir import Expr, Kernel, all_of, ceil_div, round_up
from ._vectors import shuffle
from .conv2d._bands import Band, Geometry, Source
from .conv2d._tiles import nest

POSITIONS = 16
"""Neighbouring positions of planes that are interleaved at once."""


@dataclass(frozen=True)
class Problem:
    """A convolution of 8-bit integers with one group of channels; a matrix product is the case of one row.

    Args:
        g: Sizes.
        source: The input: NCHW16c, NHWC, or NCHW with few channels.
        target: The output: NCHW16c or NHWC.
        dot: How products are summed.
        dtype: Type of the input.
        zero: What stands for 0, converted.
        attributes: Of the layer.
    """

    g: Geometry
    source: Blocked
    target: Blocked
    dot: Dot
    dtype: str
    zero: int
    attributes: QuantizedAttributes

    @staticmethod
    def of_convolution(workload: Workload, source: str, target: str, dot: Dot) -> Problem:
        """A quantized_conv2d workload, with the layouts of its input and output."""
        x, y = Blocked(workload.inputs[0].shape, source), Blocked(workload.outputs[0].shape, target)
        return Problem._of(workload, Geometry.of(workload), x, y, dot)

    @staticmethod
    def of_dense(workload: Workload, dot: Dot) -> Problem:
        """A quantized_dense workload: its rows are positions."""
        (*_, c), (k, _) = workload.inputs[0].shape, workload.weight_types["weight"].shape
        rows = workload.inputs[0].size_bytes // c
        g = Geometry(1, c, 1, rows, k, 1, rows, 1, 1, (1, 1), (0, 0, 0, 0), (1, 1))
        source, target = Blocked((1, c, 1, rows), "NHWC"), Blocked((1, k, 1, rows), "NHWC")
        return Problem._of(workload, g, source, target, dot)

    @staticmethod
    def _of(workload: Workload, g: Geometry, source: Blocked, target: Blocked, dot: Dot) -> Problem:
        zero = converted_zero(workload, dot)
        return Problem(g, source, target, dot, workload.inputs[0].dtype, zero, workload.attributes)

    @property
    def is_planar(self) -> bool:
        """True if the input is NCHW. Its copy holds a kernel row's channels of all columns side by side."""
        return self.source.layout == "NCHW"

    @property
    def depth(self) -> int:
        """Elements side by side that are summed under one kernel position: channels, or those of a kernel row."""
        return self.g.c * self.g.s if self.is_planar else self.g.c

    @property
    def columns(self) -> int:
        """Kernel positions of a row that are summed one after the other."""
        return 1 if self.is_planar else self.g.s

    @property
    def step(self) -> int:
        """How much of the depth one loop body sums."""
        groups, group = ceil_div(self.depth, self.dot.group), self.dot.group
        if self.is_planar:
            return ceil_div(groups, ceil_div(groups, self.dot.unroll)) * group
        padded = self.g.c if self.source.layout == "NHWC" else round_up(self.g.c, 4)
        widest = self.dot.unroll * group
        fitting = (size for size in (16, 8, 4, 2, 1) if size <= widest and padded % size == size % group == 0)
        return next(fitting, min(self.dot.unroll, groups) * group)

    @property
    def steps(self) -> int:
        """Loop bodies that cover the depth."""
        return ceil_div(self.depth, self.step)

    @property
    def steps_inside(self) -> bool:
        """True if the loop over them is the innermost. LLVM unrolls short ones, and on x86 then lacks registers."""
        return not self.dot.by_lane and self.steps >= max(self.g.r, self.columns)

    @property
    def pitch(self) -> int:
        """Elements from one position of a copy to the next."""
        if self.is_planar:
            return self.g.c
        return round_up(self.g.c, self.step) if self.source.layout == "NHWC" else self.source.block

    @property
    def is_flat(self) -> bool:
        """True if positions may be cut anywhere, and not only in rows."""
        return self.g.is_flat and not self.is_planar

    @property
    def lines(self) -> int:
        """What bands are cut from: rows of the output, or positions."""
        return self.g.oh * self.g.ow if self.is_flat else self.g.oh

    @property
    def reads_in_place(self) -> bool:
        """True if the tiles may read the map itself."""
        fits = self.pitch == self.source.block and self.dot.element == self.dtype
        return fits and not self.is_planar and not any(self.g.padding)

    def copied_shape(self, height: int) -> tuple[int, int, int]:
        """Channel blocks, rows and columns of the copy of a band of `height` lines."""
        g, blocks = self.g, 1 if self.is_planar else self.source.blocks
        if self.is_flat:
            return blocks, 1, height
        rows, columns = (
            (extent - 1) * stride + (kernel - 1) * dilation + 1
            for extent, stride, kernel, dilation in zip((height, g.ow), g.strides, (g.r, g.s), g.dilation, strict=True)
        )
        return blocks, rows, columns


@dataclass(frozen=True, eq=False)
class BandReader:
    """Makes the sources of bands.

    Args:
        k: The kernel.
        problem: What is computed.
        x: The input.
        lanes: int32 lanes of a vector; four times as many bytes are copied at once.
    """

    k: Kernel
    problem: Problem
    x: Any
    lanes: int

    def read(self, copies: bool, band: Band) -> Source:
        """The source of a band of `Problem.lines`."""
        p, m = self.problem, self.problem.source
        if copies:
            blocks, rows, columns = p.copied_shape(band.height)
            row, plane = columns * p.pitch, rows * columns * p.pitch
            # kernel rows of a planar copy are read in whole steps, and the groups of a step by powers of two
            beyond = (2 * p.steps if p.is_planar else 1) * p.step
            scratch = self.k.scratch(blocks * plane + beyond, p.dot.element)
            self._copy(scratch, band)
            return self._source(scratch, 0, plane, row)
        first = m.offset(band.n, 0, 0, band.first) if p.is_flat else m.offset(band.n, 0, band.first * p.g.strides[0], 0)
        return self._source(self.x, first, m.plane, m.row)

    def _source(self, buffer: Any, first: Expr, plane: int, row: int) -> Source:
        p, (sy, sx), (dy, dx) = self.problem, self.problem.g.strides, self.problem.g.dilation
        per = p.pitch // p.step

        def at(b: Expr, r: Expr, s: Expr) -> Expr:
            side_by_side = p.is_planar or per >= p.steps
            channel = b * p.step if side_by_side else b // per * plane + b % per * p.step
            return first + channel + r * (dy * row) + s * (dx * p.pitch)

        return Source(buffer, at, 0 if p.is_flat else sy * row, sx * p.pitch, 1)

    def _copy(self, scratch: Any, band: Band) -> None:
        k, p, g, m = self.k, self.problem, self.problem.g, self.problem.source
        blocks, rows, columns = p.copied_shape(band.height)
        if p.is_flat:
            with nest(blocks) as (b,):
                self._positions(scratch, b * (columns * p.pitch), m.offset(band.n, b, 0, band.first), columns)
            return
        top, left = g.padding[0], min(g.padding[1], columns)
        inside = min(g.w, columns - left)
        with nest(blocks, rows) as (b, y):
            at = k.bind((b * rows + y) * (columns * p.pitch))
            line = k.bind(band.first * g.strides[0] + y - top)

            def copy() -> None:
                self._fill(scratch, at, left * p.pitch)
                self._positions(scratch, at + left * p.pitch, m.offset(band.n, b, line, 0), inside)
                self._fill(scratch, at + (left + inside) * p.pitch, (columns - left - inside) * p.pitch)

            is_inside = all_of(line >= 0, line < g.h)
            k.when(is_inside, copy, lambda: self._fill(scratch, at, columns * p.pitch))

    def _fill(self, scratch: Any, at: Expr, elements: int) -> None:
        """Writes what stands for 0."""
        constant = tirx.const(self.problem.zero, self.problem.dot.element)
        self._in_pieces(elements, lambda i, n: self.k.store(scratch, at + i, self.k.splat(constant, n), n))

    def _positions(self, scratch: Any, at: Expr, start: Expr, count: int) -> None:
        """Copies consecutive positions."""
        p = self.problem
        if p.is_planar:
            self._in_pieces(count, lambda i, n: self._interleave(scratch, at + i * p.pitch, start + i, n), POSITIONS)
        elif p.pitch == p.source.block:
            self._move(scratch, at, start, count * p.pitch)
        else:
            with nest(count) as (i,):
                self._move(scratch, at + i * p.pitch, start + i * p.g.c, p.g.c)
                self._fill(scratch, at + i * p.pitch + p.g.c, p.pitch - p.g.c)

    def _move(self, scratch: Any, at: Expr, start: Expr, elements: int) -> None:
        def piece(i: Expr, n: int) -> None:
            value = self.problem.dot.converted(self.k.load(self.x, start + i, n), self.problem.dtype, n)
            self.k.store(scratch, at + i, value, n)

        self._in_pieces(elements, piece)

    def _interleave(self, scratch: Any, at: Expr, start: Expr, n: int) -> None:
        """Copies n neighbouring positions of all planes."""
        k, p, plane, c = self.k, self.problem, self.problem.source.plane, self.problem.g.c
        vectors = [k.bind(k.load(self.x, start + i * plane, n)) for i in range(c)]
        if n == 1:
            for i, value in enumerate(vectors):
                k.store(scratch, at + i, p.dot.converted(value, p.dtype, 1), 1)
            return
        together = vectors[0] if c == 1 else shuffle(vectors, n, [i * n + t for t in range(n) for i in range(c)])
        k.store(scratch, at, p.dot.converted(together, p.dtype, n * c), n * c)

    def _in_pieces(self, count: int, piece: Callable[[Expr, int], None], widest: int = 0) -> None:
        """Emits `piece(offset, size)` for all of `count`: a loop over the widest, and powers of two for the rest."""
        size = widest or 4 * self.lanes
        done = count // size * size
        if done:
            with nest(done // size) as (i,):
                piece(i * size, size)
        while done < count:
            size = 1 << ((count - done).bit_length() - 1)
            piece(done, size)
            done += size
