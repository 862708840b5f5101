"""Depthwise convolution: one filter for each channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from math import prod
from typing import Any

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import Blocked, blocked_layouts, port_formats
from .._channels import ChannelVectors
from .._half import also_in_float16, summing
from .._threads import serial_seconds, thread_counts
from .._tir import Kernel
from .._window import Window, sweep, tile_columns
from ._ports import Ports, pack_vectors


@also_in_float16(lambda workload, variant: summing(prod(workload.weight_types["weight"].shape[1:])))
class Depthwise(Routine):
    """A register tile of one row x `columns` output positions x one channel vector, straight from the input.

    Each input vector of a row is loaded once and feeds every output that it reaches. Rows of the kernel that fall into
    the padding are skipped by loop bounds, columns when the kernel is generated, so nothing is copied.
    Parallel over the output rows of all channel blocks.

    Shapes: x [N, C, H, W]; weight [C, 1, R, S], packed as [C / c, R, S, c]; y [N, C, OH, OW].
    Error: that of a sum of R S products.
    """

    kind = "conv2d"
    source = "Zhang, Lo and Lu, High Performance Depthwise and Pointwise Convolutions on Mobile Devices, AAAI 2020"
    requirements = (
        Requirement(
            "one input channel and one output channel for each group",
            lambda w, d: w.attributes.groups == w.inputs[0].shape[1] == w.outputs[0].shape[1] > 1,
        ),
        Requirement("a kernel at most 64 wide", lambda w, d: w.weight_types["weight"].shape[3] <= 64),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """Two tile widths in the full-width layout, one in the others."""
        channels, _, r_extent, s_extent = workload.weight_types["weight"].shape
        widest = tile_columns(device, Window.of(workload, (r_extent, s_extent)), s_extent)
        full, *half = blocked_layouts(device)
        counts = thread_counts(device, serial_seconds(workload, r_extent * s_extent, device))
        for layout, columns in ((full, widest), (full, min(widest, 8)), ("NHWC", widest), *((h, widest) for h in half)):
            lanes = ChannelVectors.of(channels, layout, device.vector_lanes).lanes
            for threads in counts:
                params = (("columns", columns), ("lanes", lanes), ("threads", threads))
                yield Variant(params, *port_formats(workload, layout, layout))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """A few units in the last place, growing with the number of products."""
        _, _, r_extent, s_extent = workload.weight_types["weight"].shape
        return 1e-6 + 1e-7 * r_extent * s_extent

    def _vectors(self, workload: Workload, variant: Variant) -> ChannelVectors:
        return ChannelVectors.of(workload.outputs[0].shape[1], variant.outputs[0].layout, variant["lanes"])

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights, bias and slope with the channels of a vector innermost."""
        vectors = self._vectors(workload, variant)
        weight = vectors.gather(weights["weight"][:, 0].transpose(1, 2, 0)).transpose(2, 0, 1, 3)
        return np.ascontiguousarray(weight), *pack_vectors(weights, vectors)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, [residual], weight, bias, [slope], y."""
        _, _, r_extent, s_extent = workload.weight_types["weight"].shape
        layout, vectors = variant.outputs[0].layout, self._vectors(workload, variant)
        x_map, y_map = Blocked(workload.inputs[0].shape, layout), Blocked(workload.outputs[0].shape, layout)
        window, v, dy = Window.of(workload, (r_extent, s_extent)), vectors.lanes, workload.attributes.dilation[0]
        reach = (r_extent - 1) * dy + 1
        with Kernel() as k:
            ports = Ports.declare(k, workload, variant, (vectors.number, r_extent, s_extent, v), vectors)
            x, weight = ports.buffers["x"], ports.buffers["weight"]
            with vectors.rows(k, y_map.shape[0], y_map.shape[2], variant["threads"] > 1) as (plane, y):
                top, begin, end = window.rows(y)
                for columns, x0 in sweep(k, window, variant["columns"]):
                    with vectors.each(k, plane) as (vector, lane):
                        sums = k.scratch(columns.width * v)
                        ports.begin(k, sums, columns.width, vector)
                        with k.loop(end - begin) as row:
                            r = k.bind(begin + row)
                            taps = k.bind((vector * r_extent + r) * (s_extent * v))
                            w = [k.bind(k.load(weight, taps + s * v, v)) for s in range(s_extent)]
                            source = k.bind(x_map.offset(0, plane, top + r * dy, window.left(x0), lane))
                            for column, fed in window.feeds(columns):
                                value = k.bind(k.load(x, source + column * x_map.block, v))
                                for i, s in fed:
                                    k.store(sums, i * v, k.load(sums, i * v, v) + value * w[s], v)
                        if workload.inputs[0].size_bytes > device.l2_bytes // 2:
                            ahead = k.bind(x_map.offset(0, plane, top + reach, x0 * window.strides[1], lane))
                            for line in product(range(window.strides[0]), range(columns.width * window.strides[1])):
                                k.prefetch(x, ahead + line[0] * x_map.row + line[1] * x_map.block, locality=3)
                        target = y_map.offset(0, plane, y, x0, lane)
                        ports.finish(k, sums, columns.width, vector, target, y_map.block)
        return k.function
