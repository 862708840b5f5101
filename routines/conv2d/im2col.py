"""Convolution of NCHW maps as a matrix product with a fused, compact im2col."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import Blocked, Epilogue, port_formats
from .._lanes import Rows, rows_together, tallest_tile
from .._tir import Expr, Kernel, cache_line, ceil_div, round_up
from ._bands import Band, BandReader, Geometry, Source
from ._blocked_conv import CHEAP
from ._tiles import Tile, for_each_group, nest, split_evenly


def _per_group(workload: Workload) -> tuple[Geometry, int]:
    """Sizes with every group of channels seen as an image of its own, and the number of groups."""
    g, groups = Geometry.of(workload), workload.attributes.groups
    return replace(g, n=g.n * groups, c=g.c // groups, k=g.k // groups), groups


def _together(device: Device) -> int:
    """Output channels, whose weights lie side by side, that come with one vector."""
    return rows_together(device.vector_lanes, device.vector_registers, row=1, step=0)


class Im2col(Routine):
    """Matrix product weights x columns of NCHW maps: for layers between others that stay in NCHW, and odd shapes.

    Shapes: x NCHW; weight [group][K tile][C block][R][S][c][k]; y NCHW. Any kernel, stride, dilation, padding, groups.

    A band of the input is copied once for each kernel column, shifted and thinned out, so that every row of the im2col
    matrix is a run of that copy; the copy stays in the second-level cache. Register tiles are output channels
    x vectors of positions; the last vector of a band overlaps the one before it. Threads share bands, or `parts` of the
    output channels.

    Error: that of summing C * R * S products in float32: 2e-5 for normal data.

    Source: Cho and Brand, MEC: Memory-efficient Convolution for Deep Neural Network (ICML 2017).
    """

    kind = "conv2d"
    source = "Cho and Brand, MEC: Memory-efficient Convolution for Deep Neural Network (2017)"
    requirements = (
        Requirement("a kernel at most 11 wide", lambda w, d: w.weight_types["weight"].shape[3] <= 11),
        Requirement("at least 4 output positions", lambda w, d: w.outputs[0].shape[2] * w.outputs[0].shape[3] >= 4),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """Two tile shapes; threads over bands, or over channels where there is one band."""
        g, _ = _per_group(workload)
        reader = BandReader(g, Blocked((g.n, g.c, g.h, g.w), "NCHW"), device.vector_lanes)
        room = device.l2_bytes // 2
        bands = next(
            n
            for n in range(1, g.oh + 1)
            if 4 * reader.scratch_elements("columns", ceil_div(g.oh, n)) <= room or n == g.oh
        )
        parts = 1
        if device.threads > 1 and g.n % device.threads:
            if g.oh * g.ow <= 400 and g.k >= 2 * device.threads:
                parts = device.threads
            else:
                bands = min(g.oh, round_up(bands, device.threads))
        smallest = g.oh // bands * g.ow
        lanes = min(device.vector_lanes, 1 << (smallest.bit_length() - 1))
        found = {}
        for vectors in (2, 3):
            fitting = min(vectors, smallest // lanes)
            found[fitting] = Variant(
                (
                    ("lanes", lanes),
                    ("vectors", fitting),
                    ("tile", self._tile(g, fitting, device)),
                    ("bands", bands),
                    ("parts", parts),
                ),
                *port_formats(workload, "NCHW", "NCHW"),
            )
        return found.values()

    @staticmethod
    def _tile(g: Geometry, vectors: int, device: Device) -> int:
        """Output channels of a tile."""
        return split_evenly(g.k, tallest_tile(vectors, device.vector_registers, _together(device)))[0][1]

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Summation of C * R * S products in float32."""
        return 2e-5

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights by tiles of output channels, as a reduction step reads them; bias, slope."""
        g, groups = _per_group(workload)
        reader = BandReader(g, Blocked((g.n, g.c, g.h, g.w), "NCHW"), int(variant["lanes"]))
        blocked = weights["weight"].astype("float32").reshape(groups, g.k, g.c // reader.block, reader.block, g.r, g.s)
        blocked = blocked.transpose(0, 2, 4, 5, 3, 1)
        pieces = []
        for group in range(groups):
            start = 0
            for count, size in split_evenly(g.k, int(variant["tile"])):
                for _ in range(count):
                    pieces.append(blocked[group, ..., start : start + size].ravel())
                    start += size
        rest = [weights[key].astype("float32") for key in ("bias", "slope") if key in weights]
        return (np.concatenate(pieces), *rest)

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """Copies of all bands for all parts, as if all ran at once."""
        g, _ = _per_group(workload)
        reader = BandReader(g, Blocked((g.n, g.c, g.h, g.w), "NCHW"), int(variant["lanes"]))
        tasks = g.n * int(variant["bands"]) * int(variant["parts"])
        return 4 * tasks * reader.scratch_elements("columns", ceil_div(g.oh, int(variant["bands"])))

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """The PrimFunc: x, [residual], weight, bias, [slope], y."""
        return _Emitter(workload, variant, device).emit()


class _Emitter:
    """Writes the kernel of one variant."""

    def __init__(self, workload: Workload, variant: Variant, device: Device) -> None:
        self.workload, self.device, self.k = workload, device, Kernel()
        self.g, self.groups = _per_group(workload)
        g = self.g
        self.lanes, self.vectors, self.tile = int(variant["lanes"]), int(variant["vectors"]), int(variant["tile"])
        self.bands, self.parts = int(variant["bands"]), int(variant["parts"])
        self.reader = BandReader(g, Blocked((g.n, g.c, g.h, g.w), "NCHW"), self.lanes)
        self.epilogue = Epilogue.of(workload)
        self.panels = ceil_div(ceil_div(g.oh, self.bands) * g.ow, self.vectors * self.lanes)
        is_large = 4 * g.c * g.r * g.s * g.k > device.l2_bytes // 2
        self.is_weight_heavy = is_large and self.panels <= 2 * self.reader.block
        self.buffers: dict[str, Any] = {}

    def emit(self) -> Any:
        """The PrimFunc."""
        g, k, w = self.g, self.k, self.workload
        shapes: dict[str, tuple[int, ...]] = {"x": w.inputs[0].shape}
        shapes |= {"residual": w.outputs[0].shape} if self.epilogue.residual else {}
        channels = g.k * self.groups
        shapes |= {"weight": (channels * g.c * g.r * g.s,), "bias": (channels,)}
        shapes |= {"slope": (channels,)} if self.epilogue.is_prelu else {}
        shapes["y"] = w.outputs[0].shape
        height = ceil_div(g.oh, self.bands)
        tall = g.oh - self.bands * (height - 1)
        with k:
            self.buffers = dict(zip(shapes, k.arguments(*shapes.items()), strict=True))
            tasks = g.n * self.bands * self.parts
            with k.loop(tasks, parallel=self.device.threads > 1 and tasks > 1) as task:
                index = task // self.parts
                n, i = k.bind(index // self.bands), index % self.bands
                if tall == self.bands:
                    band = Band(n, i * height, height, height, True)
                else:
                    first = k.bind(i * height - T.max(0, i - tall))
                    band = Band(n, first, T.Select(i < tall, height, height - 1), height, i < tall)
                source = self.reader.read("columns", self.buffers["x"], band)
                for_each_group(
                    k,
                    split_evenly(g.k, self.tile),
                    task % self.parts,
                    self.parts,
                    lambda size, start: self._channels(band, source, size, start),
                )
        return k.function

    def _channels(self, band: Band, source: Source, size: int, start: Expr) -> None:
        """All positions of the band for some output channels."""
        k, lanes = self.k, self.lanes
        channel = k.bind((band.n % self.groups) * self.g.k + start if self.groups > 1 else start)
        image = band.n * self.g.k + start
        heights = [band.height] if band.is_tall is True else [band.height, band.height - 1]
        vectors = [ceil_div(height * self.g.ow, lanes) for height in heights]

        def depends(values: list[int]) -> Expr:
            return values[0] if len(set(values)) == 1 else T.Select(band.is_tall, values[0], values[1])

        with nest(depends([n // self.vectors for n in vectors])) as (t,):
            self._panel(band, source, size, self.vectors, channel, image, t, t * (self.vectors * lanes))
        rest = [n % self.vectors for n in vectors]
        for few in sorted(set(rest) - {0}):
            last = depends([height * self.g.ow - few * lanes for height in heights])
            k.when(
                True if len(set(rest)) == 1 else depends(rest) == few,
                lambda few=few, last=last: self._panel(band, source, size, few, channel, image, self.panels - 1, last),  # type: ignore[misc]
            )

    def _panel(
        self, band: Band, source: Source, size: int, vectors: int, channel: Expr, image: Expr, index: Expr, first: Expr
    ) -> None:
        """One tile: `size` output channels, `vectors` vectors of positions, moved back to end with the band."""
        g, k, block, positions = self.g, self.k, self.reader.block, band.rows * self.g.ow
        p = k.bind(T.min(first, positions - vectors * self.lanes))
        tile = Tile(k, size, vectors, self.lanes)
        tile.start(lambda i, j, lane: k.splat(self.buffers["bias"][channel + i], self.lanes), self.lanes)
        with nest(g.c // block, g.r, g.s) as (b, r, s):
            row = k.bind(self._weight(channel, size, b, r, s))
            columns = k.bind(source.at(b, r, s) + p)
            if self.is_weight_heavy:
                # the same step of the next tile of output channels; a band has few panels, which share its lines
                share = ceil_div(block * size, cache_line() * self.panels)
                for line in range(share):
                    at = row + size * (g.c * g.r * g.s) + (index * share + line) * cache_line()
                    k.prefetch(self.buffers["weight"], at)
            rows = Rows(self.buffers["weight"], [row + i for i in range(size)], size, _together(self.device))
            tile.accumulate(rows, source.buffer, columns, source.channel, block)
        tile.combine()
        self._finish(tile, channel, image * (g.oh * g.ow) + band.first * g.ow + p)

    def _weight(self, channel: Expr, size: int, b: Expr, r: Expr, s: Expr) -> Expr:
        """Offset of the weights of a reduction step."""
        g, block = self.g, self.reader.block
        return channel * (g.c * g.r * g.s) + ((b * g.r + r) * g.s + s) * (block * size)

    def _finish(self, tile: Tile, channel: Expr, at: Expr) -> None:
        """Stores the results."""
        k, y, lanes, plane = self.k, self.buffers["y"], self.lanes, self.g.oh * self.g.ow

        def finished(value: Expr, offset: Expr, i: Expr) -> Expr:
            return self.epilogue.finish(
                value,
                lanes,
                lambda: k.load(self.buffers["residual"], offset, lanes),
                lambda: k.splat(self.buffers["slope"][channel + i], lanes),
            )

        at = k.bind(at)
        is_cheap = self.epilogue.activation.name in CHEAP
        for i in range(tile.width):
            for j in range(tile.vectors):
                offset = at + i * plane + j * lanes
                value = tile.value(i, j, 0, lanes)
                k.store(y, offset, finished(value, offset, i) if is_cheap else value, lanes)
        if not is_cheap:
            with nest(tile.width) as (i,):
                for j in range(tile.vectors):
                    offset = at + i * plane + j * lanes
                    k.store(y, offset, finished(k.load(y, offset, lanes), offset, i), lanes)
