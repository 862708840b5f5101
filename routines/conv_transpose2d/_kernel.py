"""The kernel behind `phases`: register tiles of outputs of one phase x vectors of output channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Variant

from .._blocked import Blocked, Epilogue, pack_channel_vectors
from .._copy import copy_run
from .._lanes import Rows, rows_together, tallest_tile
from .._rows import sweep
from .._tir import Expr, Kernel, all_of, ceil_div
from ..conv2d._bands import reduction_block
from ..conv2d._blocked_conv import CHEAP
from ..conv2d._tiles import UNROLL, Tile, common_split, for_each_group, nest, split_evenly
from ._phases import Axis, table

MOST_SUMS = 26
"""Accumulators of a tile: with 28, LLVM loads weights of the next step early and keeps some sums on the stack."""


@dataclass(frozen=True)
class Plan:
    """How a workload is cut up, as packing and kernel must agree on it.

    Args:
        rows: The vertical axis.
        columns: The horizontal axis.
        is_joined: True if all phases read the same input, so that they form one matrix product: its vectors are those
            of the first phase, then those of the second..
        vectors: Vectors of output channels.
        lanes: Elements of a vector.
        block: Input channels of one step of the reduction.
        blocks: Number of such steps.
        groups: How the vectors of a product are cut: pairs (count, size).
    """

    rows: Axis
    columns: Axis
    is_joined: bool
    vectors: int
    lanes: int
    block: int
    blocks: int
    groups: tuple[tuple[int, int], ...]

    @staticmethod
    def of(workload: Workload, source: str, lanes: int, vectors: int) -> Plan:
        """The plan for an input layout and tiles of at most `vectors` vectors of `lanes`."""
        rows, columns = Axis.of(workload, 0), Axis.of(workload, 1)
        is_joined = rows.is_even and columns.is_even
        _, c, _, _ = workload.inputs[0].shape
        block = reduction_block(c, Blocked(workload.inputs[0].shape, source).block, lanes)
        own = ceil_div(workload.outputs[0].shape[1], lanes)
        width = own * len(rows.phases) * len(columns.phases) if is_joined else own
        return Plan(
            rows, columns, is_joined, own, lanes, block, ceil_div(c, block), tuple(split_evenly(width, vectors))
        )

    @property
    def is_padded(self) -> bool:
        """True if outputs read beyond the input."""
        return not (self.rows.is_inside and self.columns.is_inside)

    @property
    def depth(self) -> int:
        """Channels of the reduction, padded."""
        return self.block * self.blocks

    @property
    def taps(self) -> int:
        """Kernel positions that a vector of a group of the product sums in all phases."""
        return 1 if self.is_joined else len(self.rows.order) * len(self.columns.order)

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """Weights as [group][phase][C block][taps][channel of the block][K of the group]."""
        k, c, _, _ = weight.shape
        padded = np.zeros((self.vectors * self.lanes, self.depth, *weight.shape[2:]), "float32")
        padded[:k, :c] = weight
        picks = [padded[..., list(p.taps), :][..., list(q.taps)] for p in self.rows.phases for q in self.columns.phases]
        if self.is_joined:
            picks = [np.concatenate(picks)]
        pieces, start = [], 0
        for count, size in self.groups:
            for _ in range(count):
                chosen = slice(start * self.lanes, (start + size) * self.lanes)
                for pick in picks:
                    blocked = pick[chosen].reshape(size * self.lanes, self.blocks, self.block, *pick.shape[2:])
                    pieces.append(blocked.transpose(1, 3, 4, 2, 0).ravel())
                start += size
        return np.concatenate(pieces)


@dataclass(frozen=True)
class _Source:
    """Where tiles read: the element under input row t, column u of a channel block is at base + t row + u position."""

    buffer: Any
    base: Expr
    plane: int
    row: int


@dataclass(frozen=True)
class _Group:
    """Consecutive vectors of the product, and the phase of the outputs (0, 0 where phases are joined)."""

    vectors: int
    first: Expr
    y: Expr
    x: Expr


@dataclass(frozen=True)
class _Place:
    """Outputs of a tile: numbers within their phase of the first one, and columns of the tile."""

    t: Expr
    u: Expr
    columns: int


class PhaseConvolution:
    """Writes the kernel of one variant.

    Args:
        workload: A transposed convolution with one group.
        variant: Parameters `lanes`; `vectors` of a tile; numbers of `bands` of rows and `parts` of the vectors.
        device: Gives registers and threads.
    """

    def __init__(self, workload: Workload, variant: Variant, device: Device) -> None:
        self.k, self.device, self.epilogue = Kernel(), device, Epilogue.of(workload)
        self.source = Blocked(workload.inputs[0].shape, variant.inputs[0].layout)
        self.target = Blocked(workload.outputs[0].shape, variant.outputs[0].layout)
        self.plan = Plan.of(workload, self.source.layout, int(variant["lanes"]), int(variant["vectors"]))
        self.lanes, self.bands, self.parts = self.plan.lanes, int(variant["bands"]), int(variant["parts"])
        self.part_lanes = min(self.lanes, self.target.block)
        self.height = ceil_div(self.plan.rows.count, self.bands)
        self.together = rows_together(device.vector_lanes, device.vector_registers)
        self.buffers: dict[str, Any] = {}

    def emit(self) -> Any:
        """The PrimFunc: x, [residual], weight, bias, [slope], y."""
        plan, out = self.plan, physical_shape(self.target.shape, self.target.layout)
        width = sum(count * size for count, size in plan.groups)
        channels = plan.vectors * self.lanes
        shapes: dict[str, tuple[int, ...]] = {"x": physical_shape(self.source.shape, self.source.layout)}
        shapes |= {"residual": out} if self.epilogue.residual else {}
        shapes |= {"weight": (width * self.lanes * plan.depth * plan.taps,), "bias": (channels,)}
        shapes |= {"slope": (channels,)} if self.epilogue.is_prelu else {}
        shapes["y"] = out
        with self.k as k:
            self.buffers = dict(zip(shapes, k.arguments(*shapes.items()), strict=True))
            tasks = self.source.shape[0] * self.bands * self.parts
            with k.loop(tasks, parallel=self.device.threads > 1 and tasks > 1) as task:
                index = task // self.parts
                self._task(index // self.bands, index % self.bands * self.height, task % self.parts)
        return k.function

    def _task(self, n: Expr, first: Expr, part: Expr) -> None:
        """A band of `height` outputs of every phase from number `first` on, for a part of the vectors."""
        source = self._copied(n, first) if self.plan.is_padded else self._in_place(n, first)
        phases = (1, 1) if self.plan.is_joined else (len(self.plan.rows.phases), len(self.plan.columns.phases))

        def body(vectors: int, start: Expr) -> None:
            with nest(*phases) as (y, x):
                self._phase(source, n, first, _Group(vectors, start, y, x))

        for_each_group(self.k, self.plan.groups, part, self.parts, body)

    def _in_place(self, n: Expr, first: Expr) -> _Source:
        return _Source(self.buffers["x"], self.source.offset(n, 0, first, 0), self.source.plane, self.source.row)

    def _copied(self, n: Expr, first: Expr) -> _Source:
        """Copies the rows that a band reads, with zeros around them."""
        k, m, rows, columns = self.k, self.source, self.plan.rows, self.plan.columns
        shape = copied_shape(self.plan, self.height)
        row, plane = shape[1] * m.block, shape[0] * shape[1] * m.block
        left = min(max(0, -columns.low), shape[1])
        start = max(0, columns.low)
        inside = max(0, min(m.shape[3] - start, shape[1] - left))
        scratch = k.scratch(m.blocks * plane)

        def zeros(at: Expr, elements: int) -> None:
            def piece(offset: Expr, size: int) -> None:
                k.store(scratch, at + offset, k.splat(0.0, size), size)

            sweep(k, elements, self.lanes, piece)

        with nest(m.blocks, shape[0]) as (b, y):
            at, line = k.bind(b * plane + y * row), k.bind(first + y + rows.low)

            def inner() -> None:
                zeros(at, left * m.block)
                into = at + left * m.block
                copy_run(k, scratch, into, self.buffers["x"], m.offset(n, b, line, start), inside * m.block, self.lanes)
                zeros(into + inside * m.block, (shape[1] - left - inside) * m.block)

            k.when(all_of(line >= 0, line < m.shape[2]), inner, lambda: zeros(at, row))
        return _Source(scratch, -rows.low * row - columns.low * m.block, plane, row)

    def _phase(self, source: _Source, n: Expr, first: Expr, group: _Group) -> None:
        """All outputs of the band in one phase for one group of vectors."""
        k = self.k
        widest = min(
            tallest_tile(group.vectors, self.device.vector_registers, self.together), MOST_SUMS // group.vectors
        )
        extents = sorted({phase.count for phase in self.plan.columns.phases}, reverse=True)
        width, splits = common_split(extents, widest)
        counts = [splits[extents.index(phase.count)] for phase in self.plan.columns.phases]
        heights = [phase.count for phase in self.plan.rows.phases]
        # short rows: a tile spans several; the last one overlaps the one before
        tall = max(1, min(widest // width, *heights)) if self.bands == 1 and extents[0] <= width else 1
        rows = table(heights, group.y)
        number = ceil_div(rows, tall) if isinstance(rows, int) else T.truncdiv(rows + (tall - 1), tall)
        if self.bands > 1:
            number = T.max(0, T.min(self.height, rows - first))
        with nest(number) as (i,):
            t = k.bind(T.min(i * tall, rows - tall)) if tall > 1 else i
            begin: Expr = 0
            for kind, size in enumerate((width, width - 1)):
                pieces = table([count[kind] for count in counts], group.x) if size else 0
                if isinstance(pieces, int) and pieces == 0:
                    continue
                with nest(pieces) as (j,):
                    tile = Tile(k, tall * size, group.vectors, self.lanes)
                    self._tile(source, n, first, group, tile, _Place(t, k.bind(begin + j * size), size))
                begin = begin + pieces * size

    def _tile(self, source: _Source, n: Expr, first: Expr, group: _Group, tile: Tile, place: _Place) -> None:
        k, plan, m = self.k, self.plan, self.source
        per = group.vectors * self.lanes
        bias = [self._column(group, j)[2] * self.lanes for j in range(group.vectors)]
        tile.start(lambda i, j, lane: k.load(self.buffers["bias"], bias[j], self.lanes), self.lanes)
        y_phases, x_phases = plan.rows.phases, plan.columns.phases
        ny, nx = (table([len(p.taps) for p in ps], i) for ps, i in ((y_phases, group.y), (x_phases, group.x)))
        ys, xs = (table([p.shift for p in ps], i) for ps, i in ((y_phases, group.y), (x_phases, group.x)))
        weight = k.bind(group.first * (self.lanes * plan.depth * plan.taps) + self._before(group) * (per * plan.depth))
        corner = k.bind(source.base + (place.t + ys) * source.row + (place.u + xs) * m.block)
        offsets = [i // place.columns * source.row + i % place.columns * m.block for i in range(tile.width)]
        steps = UNROLL if plan.block % UNROLL == 0 else plan.block
        with nest(plan.blocks, ny, nx) as (b, r, s):
            per_plane = m.block // plan.block
            channel = b * plan.block if m.blocks == 1 else b // per_plane * source.plane + b % per_plane * plan.block
            start = k.bind(corner + channel - r * (plan.rows.step * source.row) - s * (plan.columns.step * m.block))
            line = k.bind(weight + ((b * ny + r) * nx + s) * (plan.block * per))
            with nest(plan.block // steps) as (q,):
                starts = [start + q * steps + offset for offset in offsets]
                taken = Rows(source.buffer, starts, 1, self.together)
                tile.accumulate(taken, self.buffers["weight"], line + q * (steps * per), per, steps)
        tile.combine()
        self._finish(tile, n, first, group, place)

    def _before(self, group: _Group) -> Expr:
        """Kernel positions of the phases before a group's."""
        if self.plan.is_joined:
            return 0
        (rows, columns), across = (self.plan.rows.phases, self.plan.columns.phases), len(self.plan.columns.order)
        above = table([sum(len(p.taps) for p in rows[:i]) for i in range(len(rows))], group.y)
        left = table([sum(len(p.taps) for p in columns[:i]) for i in range(len(columns))], group.x)
        return above * across + table([len(p.taps) for p in rows], group.y) * left

    def _column(self, group: _Group, j: int) -> tuple[Expr, Expr, Expr]:
        """Phase and vector of output channels of a vector of a group."""
        if not self.plan.is_joined:
            return group.y, group.x, group.first + j
        across, place = len(self.plan.columns.phases), group.first + j
        phase = place // self.plan.vectors
        return phase // across, phase % across, place % self.plan.vectors

    def _finish(self, tile: Tile, n: Expr, first: Expr, group: _Group, place: _Place) -> None:
        """Applies the epilogue and stores; costly activations in a loop, so that their code is not repeated."""
        k, m, part = self.k, self.target, self.part_lanes
        strides = self.plan.rows.stride * m.row, self.plan.columns.stride * m.block
        places: list[tuple[int, Expr, Expr, Expr]] = []  # vector, lane of it, offset in y, condition to exist
        for j in range(tile.vectors):
            y, x, vector = self._column(group, j)
            corner = y * m.row + x * m.block + (first + place.t) * strides[0] + place.u * strides[1]
            for lane in range(0, self.lanes, part):
                if m.layout == "NHWC":
                    places.append((j, lane, k.bind(m.offset(n, 0, 0, 0, vector * self.lanes) + corner), True))
                    continue
                parts = self.lanes // part
                index = vector * parts + lane // part
                always = lane == 0 or m.blocks % parts == 0
                at = k.bind(m.offset(n, index, 0, 0) + corner)
                places.append((j, lane, at, True if always else index < m.blocks))

        def each(body: Callable[[int, int, Expr, int, Expr], None], i: int) -> None:
            for j, lane, at, exists in places:
                offset = i // place.columns * strides[0] + i % place.columns * strides[1]
                k.when(exists, lambda: body(i, j, at + offset, lane, self._column(group, j)[2]))  # noqa: B023

        def store(finished: bool) -> Callable[[int, int, Expr, int, Expr], None]:
            def body(i: int, j: int, at: Expr, lane: int, vector: Expr) -> None:
                value = tile.value(i, j, lane, part)
                k.store(self.buffers["y"], at, self._value(value, at, vector, lane) if finished else value, part)

            return body

        is_cheap = self.epilogue.activation.name in CHEAP
        for i in range(tile.width):
            each(store(is_cheap), i)
        if is_cheap:
            return

        def again(i: int, j: int, at: Expr, lane: int, vector: Expr) -> None:
            k.store(self.buffers["y"], at, self._value(k.load(self.buffers["y"], at, part), at, vector, lane), part)

        with nest(tile.width) as (i,):
            each(again, i)

    def _value(self, value: Expr, at: Expr, vector: Expr, lane: int) -> Expr:
        """A sum with the epilogue applied."""
        k, part = self.k, self.part_lanes
        return self.epilogue.finish(
            value,
            part,
            lambda: k.load(self.buffers["residual"], at, part),
            lambda: k.load(self.buffers["slope"], vector * self.lanes + lane, part),
        )


def copied_shape(plan: Plan, height: int) -> tuple[int, int]:
    """Rows and columns of the copy for a band of `height` outputs of each phase."""
    width = max((p.shift + p.count - 1 for p in plan.columns.phases if p.taps), default=0) - plan.columns.low + 1
    return height + plan.rows.high - plan.rows.low, max(1, width)


def pack_weights(workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Weights as the tiles read them, bias, slope."""
    plan = Plan.of(workload, variant.inputs[0].layout, int(variant["lanes"]), int(variant["vectors"]))
    return (plan.pack(weights["weight"]), *pack_channel_vectors(workload, weights, plan.lanes))
