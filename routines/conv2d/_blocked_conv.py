"""Direct convolution of channel-blocked maps: the kernel behind `direct` and `pointwise`.

The output of a task (one image, one band of rows, one part of the output channels) is cut into register tiles. A tile
adds up broadcast inputs times weight vectors, over blocks of input channels and kernel positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Routine, Variant

from .._blocked import Blocked, Epilogue, pack_channel_vectors
from .._half import summing
from .._lanes import Rows, rows_together, tallest_tile
from .._tir import Expr, Kernel, cache_line, ceil_div, element, round_up
from ._bands import Band, BandReader, Geometry, Source, reduction_block
from ._tiles import UNROLL, Split, Tile, common_split, for_each_group, nest, split_evenly

CHEAP = ("identity", "relu", "clip", "leaky_relu", "prelu", "hard_sigmoid", "hard_swish")
"""Activations of a few instructions; others are applied in a loop, so that their code is not repeated."""


def pack_weights(workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Weights as [group of vectors][C block][R][S][channel of the block][K of the group]; bias; slope."""
    g, lanes = Geometry.of(workload), int(variant["lanes"])
    block = reduction_block(g.c, Blocked(workload.inputs[0].shape, variant.inputs[0].layout).block, lanes)
    vectors = ceil_div(g.k, lanes)
    padded = np.zeros((vectors * lanes, round_up(g.c, block), g.r, g.s), "float32")
    padded[: g.k, : g.c] = weights["weight"]
    blocked = padded.reshape(vectors * lanes, -1, block, g.r, g.s).transpose(1, 3, 4, 2, 0)
    pieces, start = [], 0
    for count, size in split_evenly(vectors, int(variant["vectors"])):
        for _ in range(count):
            pieces.append(blocked[..., start * lanes : (start + size) * lanes].ravel())
            start += size
    return (np.concatenate(pieces), *pack_channel_vectors(workload, weights, lanes))


@dataclass(frozen=True)
class _Group:
    """Consecutive vectors of output channels that tiles share.

    Args:
        vectors: How many; known when the kernel is written.
        first: Index of the first one.
    """

    vectors: int
    first: Expr


@dataclass(frozen=True)
class _Span:
    """Part of the reduction: blocks of input channels, and whether it is the first and the last part."""

    low: Expr
    count: Expr
    is_first: Expr
    is_last: Expr


@dataclass(frozen=True)
class _Place:
    """Where a tile lies: output position in the map, offset in the source, index among the `tiles` of the band."""

    position: Expr
    offset: Expr
    index: Expr
    tiles: int


class BlockedConvolution:
    """Writes the kernel of one variant.

    Args:
        workload: A convolution with one group.
        variant: Parameters `lanes` of a vector; `vectors` of output channels in a tile; `copy`, see `BandReader`;
            number of `bands` of rows and of `parts` of the output channels (bands x parts x batch run in parallel);
            `steps` of the reduction, between which partial sums wait in y. In float16 the sums of each step start from
            zero, see `_half.LONGEST_SUM`.
        device: Gives registers, threads and cache.
    """

    def __init__(self, workload: Workload, variant: Variant, device: Device) -> None:
        self.g, self.k, self.device = Geometry.of(workload), Kernel(), device
        self.source = Blocked(workload.inputs[0].shape, variant.inputs[0].layout)
        self.target = Blocked(workload.outputs[0].shape, variant.outputs[0].layout)
        self.epilogue = Epilogue.of(workload)
        self.lanes, self.copy = int(variant["lanes"]), str(variant["copy"])
        self.bands, self.parts, self.steps = int(variant["bands"]), int(variant["parts"]), int(variant["steps"])
        self.reader = BandReader(self.g, self.source, self.lanes)
        self.block = self.reader.block
        self.blocks = ceil_div(self.g.c, self.block)
        position, channel = (0, 1) if self.source.block > 1 else (1, 0)
        position *= self.g.strides[1] if self.copy in ("rows", "none") else 1
        self.together = rows_together(device.vector_lanes, device.vector_registers, position, channel)
        self.taps = self.blocks * self.block * self.g.r * self.g.s
        self.groups = split_evenly(ceil_div(self.g.k, self.lanes), int(variant["vectors"]))
        self.part_lanes = min(self.lanes, self.target.block)
        self.line = 1 if self.copy == "flat" else self.g.ow
        rows = self.g.oh * self.g.ow // self.line
        self.height = ceil_div(rows, self.bands)
        self.tall_bands = rows - self.bands * (self.height - 1)
        self.is_weight_heavy = 4 * self.taps * self.g.k > device.l2_bytes // 2
        self.adds_partial = element() != "float32"
        self.buffers: dict[str, Any] = {}

    def emit(self) -> Any:
        """The PrimFunc: x, [residual], weight, bias, [slope], y."""
        k, channels = self.k, sum(count * size for count, size in self.groups) * self.lanes
        out = physical_shape(self.target.shape, self.target.layout)
        shapes: dict[str, tuple[int, ...]] = {"x": physical_shape(self.source.shape, self.source.layout)}
        shapes |= {"residual": out} if self.epilogue.residual else {}
        shapes |= {"weight": (channels * self.taps,), "bias": (channels,)}
        shapes |= {"slope": (channels,)} if self.epilogue.is_prelu else {}
        shapes["y"] = out
        with k:
            self.buffers = dict(zip(shapes, k.arguments(*shapes.items()), strict=True))
            tasks = self.g.n * self.bands * self.parts
            with k.loop(tasks, parallel=self.device.threads > 1 and tasks > 1) as task:
                index = task // self.parts
                self._task(self._band(index // self.bands, index % self.bands), task % self.parts)
        return k.function

    def _band(self, n: Expr, index: Expr) -> Band:
        if self.tall_bands == self.bands:
            return Band(n, index * self.height, self.height, self.height, True)
        is_tall = index < self.tall_bands
        first = self.k.bind(index * self.height - T.max(0, index - self.tall_bands))
        return Band(n, first, T.Select(is_tall, self.height, self.height - 1), self.height, is_tall)

    def _task(self, band: Band, part: Expr) -> None:
        """One band and the part's share of the groups of output channels."""
        source = self.reader.read(self.copy, self.buffers["x"], band)
        for_each_group(
            self.k, self.groups, part, self.parts, lambda n, first: self._group(band, source, _Group(n, first))
        )

    def _group(self, band: Band, source: Source, group: _Group) -> None:
        """All positions of the band for one group of output channels."""
        per_step = ceil_div(self.blocks, self.steps)
        steps = ceil_div(self.blocks, per_step)
        widest = tallest_tile(group.vectors, self.device.vector_registers, self.together)
        with nest(steps) as (step,):
            low = step * per_step
            count = per_step if per_step * steps == self.blocks else T.min(per_step, self.blocks - low)
            single = steps == 1
            span = _Span(low, count, True if single else step == 0, True if single else step == steps - 1)
            if self.copy in ("flat", "columns"):
                begin, index = 0, 0
                tiles = ceil_div(self.height * self.line, widest)
                for pieces, width in self._flat_tiles(band, widest):
                    with nest(pieces) as (t,):
                        p = begin + t * width
                        place = _Place(band.first * self.line + p, p * source.position, index + t, tiles)
                        self._tile(source, band.n, group, width, span, place)
                    begin, index = begin + pieces * width, index + pieces
                return
            row = self._columns(widest)
            tiles = sum(pieces for pieces, _ in row)
            with nest(band.rows) as (y,):
                begin, index = 0, y * tiles
                for pieces, width in row:
                    with nest(pieces) as (t,):
                        x = begin + t * width
                        position, offset = (band.first + y) * self.line + x, y * source.row + x * source.position
                        place = _Place(position, offset, index + t, tiles * self.height)
                        self._tile(source, band.n, group, width, span, place)
                    begin, index = begin + pieces * width, index + pieces

    def _columns(self, widest: int) -> Split:
        """How an output row is cut into tiles."""
        return split_evenly(self.g.ow, widest)

    def _flat_tiles(self, band: Band, widest: int) -> list[tuple[Expr, int]]:
        """Tiles along the consecutive positions of a band: pairs (count, width)."""
        tall = self.height * self.line
        if band.is_tall is True:
            return list(split_evenly(tall, widest))
        width, counts = common_split((tall, tall - self.line), widest)
        return [(T.Select(band.is_tall, counts[0][i], counts[1][i]), width - i) for i in (0, 1) if width > i]

    def _tile(self, source: Source, n: Expr, group: _Group, width: int, span: _Span, place: _Place) -> None:
        k, g, per = self.k, self.g, group.vectors * self.lanes
        tile = Tile(k, width, group.vectors, self.lanes)
        self._start(tile, n, group, span, place)
        weight = group.first * (self.lanes * self.taps)
        steps = UNROLL if self.block % UNROLL == 0 else self.block
        with nest(span.count, g.r, g.s) as (b, r, s):
            block = span.low + b
            start = k.bind(source.at(block, r, s) + place.offset)
            row = k.bind(weight + ((block * g.r + r) * g.s + s) * (self.block * per))
            self._prefetch(weight, per, span, place, (b * g.r + r) * g.s + s)
            with nest(self.block // steps) as (q,):
                offsets = [start + q * steps * source.channel + i * source.position for i in range(width)]
                rows = Rows(source.buffer, offsets, source.channel, self.together)
                tile.accumulate(rows, self.buffers["weight"], row + q * (steps * per), per, steps)
        tile.combine()
        if self.adds_partial and span.is_first is not True:
            self._add_partial(tile, n, group, span, place)
        k.when(span.is_last, lambda: self._finish(tile, n, group, place), lambda: self._put(tile, n, group, place))

    def _prefetch(self, weight: Expr, per: int, span: _Span, place: _Place, iteration: Expr) -> None:
        """Asks for a share of the weights of the next step or group, spread over the tiles of this one."""
        line_elements = cache_line()
        lines = self.block * per // line_elements
        if not self.is_weight_heavy or place.tiles > 2 * lines:
            return
        share, taps = ceil_div(lines, place.tiles), self.g.r * self.g.s
        after = weight + (span.low + span.count) * (taps * self.block * per)
        line = (place.index * (span.count * taps) + iteration) * share
        for i in range(share):
            self.k.prefetch(self.buffers["weight"], after + (line + i) * line_elements)

    def _y(self, n: Expr, group: _Group, j: int, lane: int, position: Expr) -> tuple[Expr, Expr]:
        """Offset in y of a part of a vector, and the condition under which it exists."""
        base, block = position * self.target.block, (group.first + j) * self.lanes + lane
        if self.target.layout == "NHWC":
            return self.target.offset(n, 0, 0, 0, block) + base, True
        index = (group.first + j) * (self.lanes // self.part_lanes) + lane // self.part_lanes
        always = lane == 0 or self.target.blocks % (self.lanes // self.part_lanes) == 0
        return self.target.offset(n, index, 0, 0) + base, True if always else index < self.target.blocks

    def _start(self, tile: Tile, n: Expr, group: _Group, span: _Span, place: _Place) -> None:
        k = self.k

        def bias() -> None:
            tile.start(
                lambda i, j, lane: k.load(self.buffers["bias"], (group.first + j) * self.lanes, self.lanes), self.lanes
            )

        def partial() -> None:
            def value(i: int, j: int, lane: int) -> Expr:
                if self.adds_partial:
                    return k.splat(0.0, self.part_lanes)
                return self._partial(n, group, place, (i, j, lane))

            tile.start(value, self.part_lanes)

        k.when(span.is_first, bias, partial)

    def _parts(self, tile: Tile) -> list[tuple[int, int, int]]:
        """Position, vector and first lane of everything that a tile stores."""
        lanes = range(0, self.lanes, self.part_lanes)
        return [(i, j, lane) for i in range(tile.width) for j in range(tile.vectors) for lane in lanes]

    def _partial(self, n: Expr, group: _Group, place: _Place, piece: tuple[int, int, int]) -> Expr:
        """Partial sum, which waits in y: of position, vector, from a lane on."""
        i, j, lane = piece
        at, exists = self._y(n, group, j, lane, place.position + i)
        # a part that does not exist takes the values of the one before it: they are never stored
        missing = 0 if exists is True else T.Select(exists, 0, self.target.plane)
        return self.k.load(self.buffers["y"], at - missing, self.part_lanes)

    def _add_partial(self, tile: Tile, n: Expr, group: _Group, span: _Span, place: _Place) -> None:
        """Adds what the steps before have summed, if there were any."""
        none = self.k.splat(0.0, self.part_lanes)
        for piece in self._parts(tile):
            before = self._partial(n, group, place, piece)
            tile.add(*piece, self.part_lanes, T.Select(span.is_first, none, before))

    def _put(self, tile: Tile, n: Expr, group: _Group, place: _Place) -> None:
        """Stores the accumulators as they are."""
        k, part = self.k, self.part_lanes
        for i, j, lane in self._parts(tile):
            at, exists = self._y(n, group, j, lane, place.position + i)
            k.when(
                exists,
                lambda at=at, i=i, j=j, lane=lane: k.store(self.buffers["y"], at, tile.value(i, j, lane, part), part),  # type: ignore[misc]
            )

    def _finish(self, tile: Tile, n: Expr, group: _Group, place: _Place) -> None:
        """Stores the results."""
        k, part, y = self.k, self.part_lanes, self.buffers["y"]

        def finished(value: Expr, at: Expr, j: int, lane: int) -> Expr:
            channel = (group.first + j) * self.lanes + lane
            return self.epilogue.finish(
                value,
                part,
                lambda: k.load(self.buffers["residual"], at, part),
                lambda: k.load(self.buffers["slope"], channel, part),
            )

        if self.epilogue.activation.name in CHEAP:
            for i, j, lane in self._parts(tile):
                at, exists = self._y(n, group, j, lane, place.position + i)

                def store(at: Expr = at, i: int = i, j: int = j, lane: int = lane) -> None:
                    k.store(y, at, finished(tile.value(i, j, lane, part), at, j, lane), part)

                k.when(exists, store)
            return
        self._put(tile, n, group, place)
        with nest(tile.width) as (i,):
            for j in range(tile.vectors):
                for lane in range(0, self.lanes, part):
                    at, exists = self._y(n, group, j, lane, place.position + i)

                    def again(at: Expr = at, j: int = j, lane: int = lane) -> None:
                        k.store(y, at, finished(k.load(y, at, part), at, j, lane), part)

                    k.when(exists, again)


def float16_error(workload: Workload, variant: Variant) -> float:
    """Error bound of sums of C * R * S products in float16."""
    return summing(prod(workload.weight_types["weight"].shape[1:]))


class BlockedRoutine(Routine):
    """What the routines that use `BlockedConvolution` share."""

    kind = "conv2d"

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Summation of C * R * S products in float32."""
        return 2e-5

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """The kernel; see `BlockedConvolution`."""
        return BlockedConvolution(workload, variant, device).emit()

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights by groups of output-channel vectors, bias, slope."""
        return pack_weights(workload, variant, weights)

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """Copies of all bands for all parts, as if all ran at once."""
        g = Geometry.of(workload)
        reader = BandReader(g, Blocked(workload.inputs[0].shape, variant.inputs[0].layout), int(variant["lanes"]))
        tasks = g.n * int(variant["bands"]) * int(variant["parts"])
        return 4 * tasks * reader.scratch_elements(str(variant["copy"]), ceil_div(g.oh, int(variant["bands"])))
