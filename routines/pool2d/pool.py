"""Max and average pooling, vectorised over channels."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import Blocked, blocked_layouts
from .._channels import ChannelVectors
from .._half import also_in_float16, summing
from .._threads import serial_seconds, thread_counts
from .._tir import Expr, Kernel, cast, element, lowest
from .._window import Columns, Window, sweep


@also_in_float16(lambda workload, variant: summing(prod(workload.attributes.kernel)))
class Pool(Routine):
    """A register tile of one row x `columns` output positions x one channel vector, straight from the input.

    Padding as in the depthwise convolution: rows by loop bounds, columns when the kernel is generated. A mean
    divides by the rows counted, known while the kernel runs, times the columns counted, known before.
    Parallel over the output rows of all channel blocks.

    Shapes: x [N, C, H, W]; y [N, C, OH, OW].
    Error: none for max; that of a sum of R S elements for average.
    """

    kind = "pool2d"
    source = "Lai, Suda and Chandra, CMSIS-NN: Efficient Neural Network Kernels for Arm Cortex-M CPUs, 2018"
    requirements = (
        Requirement("a kernel at most 64 wide", lambda w, d: w.attributes.kernel[1] <= 64),
        Requirement("float32", lambda w, d: w.inputs[0].dtype == "float32"),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One for each layout."""
        columns = min(workload.outputs[0].shape[3], 8, max(1, 256 // workload.attributes.kernel[1]))
        threads = thread_counts(device, serial_seconds(workload, prod(workload.attributes.kernel), device))[0]
        for layout in (*blocked_layouts(device), "NHWC"):
            lanes = ChannelVectors.of(workload.inputs[0].shape[1], layout, device.vector_lanes).lanes
            params = (("columns", columns), ("lanes", lanes), ("threads", threads))
            yield Variant(params, (Format(layout),), (Format(layout),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Exact for max; a few units in the last place for average."""
        r_extent, s_extent = workload.attributes.kernel
        return 0.0 if workload.attributes.mode == "max" else 1e-6 + 1e-7 * r_extent * s_extent

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, y."""
        layout, maximum = variant.outputs[0].layout, workload.attributes.mode == "max"
        x_map, y_map = Blocked(workload.inputs[0].shape, layout), Blocked(workload.outputs[0].shape, layout)
        vectors = ChannelVectors.of(y_map.shape[1], layout, variant["lanes"])
        window, v = Window.of(workload, workload.attributes.kernel), vectors.lanes
        with Kernel() as k:
            x, y_buffer = k.arguments(
                ("x", physical_shape(x_map.shape, layout)), ("y", physical_shape(y_map.shape, layout))
            )
            with vectors.rows(k, y_map.shape[0], y_map.shape[2], variant["threads"] > 1) as (plane, y):
                top, begin, end = window.rows(y)
                for columns, x0 in sweep(k, window, variant["columns"]):
                    with vectors.each(k, plane) as (_, lane):
                        found = k.scratch(columns.width * v)
                        for i in range(columns.width):
                            k.store(found, i * v, k.splat(lowest() if maximum else 0.0, v), v)
                        with k.loop(end - begin) as row:
                            place = top + (begin + row) * window.dilation[0], window.left(x0)
                            source = k.bind(x_map.offset(0, plane, *place, lane))
                            for column, fed in window.feeds(columns):
                                value = k.bind(k.load(x, source + column * x_map.block, v))
                                for i, _ in fed:
                                    old = k.load(found, i * v, v)
                                    k.store(found, i * v, T.max(old, value) if maximum else old + value, v)
                        target = y_map.offset(0, plane, y, x0, lane)
                        scales = None if maximum else _scales(k, workload, window, columns, y)
                        for i in range(columns.width):
                            value = k.load(found, i * v, v)
                            if scales:
                                value = value * k.splat(scales[i], v)
                            k.store(y_buffer, target + i * y_map.block, value, v)
        return k.function


def _scales(k: Kernel, workload: Workload, window: Window, columns: Columns, y: Expr) -> list[Expr]:
    """What the sum of each column of a tile is multiplied by, so that it becomes a mean."""
    attributes = workload.attributes
    bottom, right = attributes.padding[2:] if attributes.count_include_pad else (0, 0)
    top, begin, end = window.rows(y)
    if attributes.count_include_pad:
        begin, end = 0, T.min(window.kernel[0], (window.source[0] + bottom - 1 - top) // window.dilation[0] + 1)
    scale = k.bind(T.float32(1) / T.Cast("float32", T.max(end - begin, 1)))
    counts = [window.kernel[1]] * columns.width
    if not columns.inside:
        low, high = -window.padding[1] * attributes.count_include_pad, window.source[1] + right
        starts = [window.left(columns.first + i) for i in range(columns.width)]
        reach = range(0, window.kernel[1] * window.dilation[1], window.dilation[1])
        counts = [max(1, sum(low <= start + tap < high for tap in reach)) for start in starts]
    scales = [scale * T.float32(1 / count) for count in counts]
    return [k.splat(own if element() == "float32" else cast(own, element(), 1), 1) for own in scales]
