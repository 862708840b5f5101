"""Grouped convolution: ResNeXt, ShuffleNet, and depthwise convolution with several filters for each channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import block_of
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import Blocked, blocked_layouts, port_formats
from .._channels import ChannelVectors
from .._lanes import Rows, rows_together
from .._threads import serial_seconds, thread_counts
from .._tir import Expr, Kernel, ceil_div
from .._vectors import shuffle
from .._window import Columns, Window, sweep, tile_columns
from ._ports import Ports, pack_vectors


@dataclass(frozen=True)
class Groups:
    """How groups of channels lie in vectors.

    Args:
        reads: Input channels of a group.
        writes: Output channels of a group.
        outputs: Output channels of all groups.
        lanes: Channels of a vector.
        vectors: Neighbouring output vectors, all of one group, that are computed together.
    """

    reads: int
    writes: int
    outputs: int
    lanes: int
    vectors: int = 1

    @property
    def span(self) -> int:
        """Input channels of the groups in an output vector, if it holds whole groups."""
        return self.lanes // self.writes * self.reads

    @property
    def permuted(self) -> bool:
        """True if output vectors hold several whole groups each, whose input channels fill one or two vectors."""
        v = self.lanes
        return self.writes < v and v % self.writes == 0 and (v % self.span == 0 or self.span == 2 * v)

    def together(self, registers: int) -> int:
        """Input channels that are read as one vector, of which multiply-adds take a lane each."""
        holds = not self.permuted and self.reads % self.lanes == 0 and rows_together(self.lanes, registers)
        return self.lanes if holds else 1

    def sources(self, tile: Expr) -> tuple[Expr, Expr]:
        """The first input channel that a tile of output vectors depends on, and the number of channels from there."""
        first = tile * (self.lanes * self.vectors)
        last = T.min(first + self.lanes * self.vectors, self.outputs) - 1
        return first // self.writes * self.reads, (last // self.writes - first // self.writes + 1) * self.reads

    def _offsets(self) -> np.ndarray:
        """For each output channel the step at which its own group begins."""
        channel, tile = np.arange(self.outputs), self.lanes * self.vectors
        groups_before = channel // self.writes - channel // tile * tile // self.writes
        return np.zeros_like(channel) if self.permuted else groups_before * self.reads

    def packed_shape(self, kernel: tuple[int, int]) -> tuple[int, ...]:
        """Shape of the packed weight: [K / (vectors c), steps, R, S, vectors, c]."""
        tiles = ceil_div(self.outputs, self.lanes * self.vectors)
        return tiles, int(self._offsets().max()) + self.reads, *kernel, self.vectors, self.lanes

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """Packs [K, C / groups, R, S].

        A step is an input channel of the group if the groups are permuted, else one of the input channels that a tile
        depends on; weights between an input and an output of different groups are 0 (block-diagonal).
        """
        tiles, steps, r_extent, s_extent, vectors, lanes = self.packed_shape(weight.shape[2:])
        packed = np.zeros((tiles * vectors * lanes, steps, r_extent, s_extent), "float32")
        for step in range(self.reads):
            packed[np.arange(self.outputs), self._offsets() + step] = weight[:, step]
        split = packed.reshape(tiles, vectors, lanes, steps, r_extent, s_extent)
        return np.ascontiguousarray(split.transpose(0, 3, 4, 5, 1, 2))


class Grouped(Routine):
    """A register tile of one row x `columns` positions x `vectors` channel vectors, straight from the input.

    Where an output vector holds several whole groups, the input vector of a position is permuted in registers, once for
    each input channel of a group, so that every lane meets its own group's channel. Elsewhere single input channels are
    broadcast; a vector that straddles groups then multiplies by packed zeros. Padding as in the depthwise routine.
    Parallel over the output rows of all channel vectors.

    Shapes: x [N, C, H, W]; weight [K, C / groups, R, S]; y [N, K, OH, OW].
    Error: that of a sum of R S C / groups products.
    """

    kind = "conv2d"
    source = "Xie, Girshick, Dollar, Tu and He, Aggregated Residual Transformations for Deep Neural Networks, CVPR 2017"
    requirements = (
        Requirement(
            "several groups with more than one channel",
            lambda w, d: (
                1 < w.attributes.groups and not w.attributes.groups == w.inputs[0].shape[1] == w.outputs[0].shape[1]
            ),
        ),
        Requirement("a kernel at most 64 wide", lambda w, d: w.weight_types["weight"].shape[3] <= 64),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One vector, and two where a group is wide; in the full-width layout also narrower tiles."""
        _, reads, r_extent, s_extent = workload.weight_types["weight"].shape
        counts = thread_counts(device, serial_seconds(workload, reads * r_extent * s_extent, device))
        window = Window.of(workload, (r_extent, s_extent))
        for layout in blocked_layouts(device):
            groups = groups_of(workload, layout)
            for vectors in (2, 1) if groups.writes % (2 * groups.lanes) == 0 else (1,):
                taps = s_extent * (reads if groups.permuted else vectors)
                holds_input = groups.together(device.vector_registers) > 1
                widest = tile_columns(device, window, taps, vectors, holds_input)
                narrow = min(widest, 8) if vectors == 1 and groups.lanes == device.vector_lanes else widest
                for columns, threads in product((widest, narrow), counts):
                    params = (("vectors", vectors), ("columns", columns), ("threads", threads))
                    yield Variant(params, *port_formats(workload, layout, layout))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """A few units in the last place, growing with the number of products."""
        _, reads, r_extent, s_extent = workload.weight_types["weight"].shape
        return 1e-6 + 1e-7 * reads * r_extent * s_extent

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights as `Groups.pack` lays them out; bias and slope padded to whole vectors."""
        layout = variant.outputs[0].layout
        vectors = ChannelVectors.of(workload.outputs[0].shape[1], layout, 1)
        packed = groups_of(workload, layout, variant["vectors"]).pack(weights["weight"])
        return packed, *pack_vectors(weights, vectors)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, [residual], weight, bias, [slope], y."""
        _, _, r_extent, s_extent = workload.weight_types["weight"].shape
        return write_kernel(workload, variant, device, Window.of(workload, (r_extent, s_extent)))


def groups_of(workload: Workload, layout: str, vectors: int = 1) -> Groups:
    """The groups of a convolution."""
    outputs, reads, _, _ = workload.weight_types["weight"].shape
    return Groups(reads, outputs // workload.attributes.groups, outputs, block_of(layout, "C"), vectors)


def write_kernel(workload: Workload, variant: Variant, device: Device, window: Window) -> Any:
    """The PrimFunc of a variant whose tiles read through a window: x, [residual], weight, bias, [slope], y."""
    layout = variant.outputs[0].layout
    groups = groups_of(workload, layout, variant["vectors"])
    x_map, y_map = Blocked(workload.inputs[0].shape, layout), Blocked(workload.outputs[0].shape, layout)
    packed = groups.packed_shape(window.kernel)
    together = groups.together(device.vector_registers)
    at_once = max(1, (device.vector_registers - 2 - variant["columns"]) // (window.kernel[1] + 1))
    with Kernel() as k:
        ports = Ports.declare(k, workload, variant, packed, ChannelVectors.of(groups.outputs, layout, 1))
        rows, tiles, v = y_map.shape[2], packed[0], groups.lanes
        with k.loop(y_map.shape[0] * tiles * rows, variant["threads"] > 1) as task:
            y, tile, n = task % rows, task // rows % tiles, task // (rows * tiles)
            for columns, x0 in sweep(k, window, variant["columns"]):
                sums = [k.scratch(columns.width * v) for _ in range(groups.vectors)]
                for j, accumulators in enumerate(sums):
                    ports.begin(k, accumulators, columns.width, tile * groups.vectors + j)
                body = _Body(k, ports, groups, window, columns, x_map, at_once, together)
                (body.permuted if groups.permuted else body.broadcast)(sums, n, tile, y, x0)
                for j, accumulators in enumerate(sums):
                    vector = tile * groups.vectors + j
                    ports.finish(k, accumulators, columns.width, vector, y_map.offset(n, vector, y, x0), v)
    return k.function


@dataclass(frozen=True, eq=False)
class _Body:
    """Emits the sums of one register tile.

    Args:
        k: The kernel.
        ports: Its arguments.
        groups: How groups lie in vectors.
        window: Geometry.
        columns: The tile's output columns.
        x_map: Addresses of the input.
        at_once: Permutations whose weights stay in registers together.
        together: Input channels that are read as one vector.
    """

    k: Kernel
    ports: Ports
    groups: Groups
    window: Window
    columns: Columns
    x_map: Blocked
    at_once: int
    together: int

    def _taps(self, tile: Expr, step: Expr, r: Expr) -> list[list[Expr]]:
        """The weights of a kernel row and a step: vectors by kernel column and output vector."""
        _, steps, r_extent, s_extent, nv, v = self.groups.packed_shape(self.window.kernel)
        base = self.k.bind(((tile * steps + step) * r_extent + r) * (s_extent * nv * v))
        load = [self.k.bind(self.k.load(self.ports.buffers["weight"], base + i * v, v)) for i in range(s_extent * nv)]
        return [load[s * nv : (s + 1) * nv] for s in range(s_extent)]

    def _accumulate(self, sums: list[Any], value: Expr, taps: list[list[Expr]], fed: list[tuple[int, int]]) -> None:
        """Adds what one input vector contributes to the outputs that it feeds."""
        v = self.groups.lanes
        for i, s in fed:
            for accumulators, tap in zip(sums, taps[s], strict=True):
                self.k.store(accumulators, i * v, self.k.load(accumulators, i * v, v) + value * tap, v)

    def permuted(self, sums: list[Any], n: Expr, tile: Expr, y: Expr, x0: Expr) -> None:
        """Permutes the input vector of a position once for each input channel of a group."""
        k, groups, x_map, x = self.k, self.groups, self.x_map, self.ports.buffers["x"]
        v, first = groups.lanes, groups.sources(tile)[0]
        top, begin, end = self.window.rows(y)
        with k.loop(end - begin) as row:
            r = k.bind(begin + row)
            place = top + r * self.window.dilation[0], self.window.left(x0)
            sources = [k.bind(x_map.offset(n, first // v, *place, first % v))]
            if groups.span > v:
                sources.append(k.bind(x_map.offset(n, T.min(first // v + 1, x_map.blocks - 1), *place)))
            width = min(v, groups.span)
            for begin_step in range(0, groups.reads, self.at_once):
                steps = range(begin_step, min(begin_step + self.at_once, groups.reads))
                taps = [self._taps(tile, step, r) for step in steps]
                for column, fed in self.window.feeds(self.columns):
                    read = [k.bind(k.load(x, source + column * v, width)) for source in sources]
                    for step, step_taps in zip(steps, taps, strict=True):
                        lanes = [lane // groups.writes * groups.reads + step for lane in range(v)]
                        self._accumulate(sums, shuffle(read, width, lanes), step_taps, fed)

    def broadcast(self, sums: list[Any], n: Expr, tile: Expr, y: Expr, x0: Expr) -> None:
        """Broadcasts one input channel after the other, or lanes of a vector of them."""
        k, x_map, x = self.k, self.x_map, self.ports.buffers["x"]
        v = self.groups.lanes
        first, steps = self.groups.sources(tile)
        top, begin, end = self.window.rows(y)
        together = self.together
        with k.loop(steps // together) as chunk:
            channel = k.bind(first + chunk * together)
            with k.loop(end - begin) as row:
                r = k.bind(begin + row)
                place = top + r * self.window.dilation[0], self.window.left(x0)
                for u in range(together):
                    taps = self._taps(tile, chunk * together + u, r)
                    source = k.bind(x_map.offset(n, channel // v, *place, channel % v))
                    for column, fed in self.window.feeds(self.columns):
                        value = Rows(x, [source + column * v], 1, int(together > 1)).broadcast(0, u, together, v)
                        self._accumulate(sums, k.bind(value), taps, fed)
