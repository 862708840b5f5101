"""Global average pooling."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import Blocked, blocked_layouts
from .._channels import ChannelVectors
from .._half import also_in_float16, summing
from .._threads import serial_seconds, thread_counts
from .._tir import Kernel, cast, computing_in
from .._vectors import shuffle

ACCUMULATORS = 4
"""Independent sums, which hide the latency of the addition."""


@also_in_float16(lambda workload, variant: summing(1))
class GlobalAverage(Routine):
    """Sums all positions of a channel vector in several accumulators; in NCHW all positions of a channel.

    NCHWc and NHWC sum vertically, one channel vector at a time; NCHW sums vectors of positions and then, once for each
    channel, horizontally. Parallel over channel vectors (NCHWc), batch (NHWC) or channels (NCHW).

    Shapes: x [N, C, H, W]; y [N, C, 1, 1].
    Error: that of H W / 4 additions one after the other; sums are float32 whatever the element type is.
    """

    kind = "pool2d"
    source = "Lin, Chen and Yan, Network in Network, ICLR 2014"
    requirements = (
        Requirement(
            "an average over the whole map without padding",
            lambda w, d: (
                w.attributes.mode == "average"
                and w.attributes.kernel == w.inputs[0].shape[2:]
                and not any(w.attributes.padding)
                and w.attributes.dilation == (1, 1)
            ),
        ),
        Requirement("float32", lambda w, d: w.inputs[0].dtype == "float32"),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One for each layout."""
        threads = thread_counts(device, serial_seconds(workload, prod(workload.attributes.kernel), device))[0]
        for layout in (*blocked_layouts(device), "NCHW", "NHWC"):
            yield Variant((("threads", threads),), (Format(layout),), (Format(layout),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Grows with the number of additions."""
        positions: int = prod(workload.inputs[0].shape[2:])
        return 1e-6 + 1e-7 * positions / ACCUMULATORS

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, y."""
        planar = variant.inputs[0].layout == "NCHW"
        return (_horizontal if planar else _vertical)(workload, variant, device.vector_lanes)


def _vertical(workload: Workload, variant: Variant, lanes: int) -> Any:
    """Adds channel vectors."""
    layout = variant.inputs[0].layout
    x_map = Blocked(workload.inputs[0].shape, layout)
    vectors = ChannelVectors.of(x_map.shape[1], layout, lanes)
    v, positions, parallel = vectors.lanes, x_map.shape[2] * x_map.shape[3], variant["threads"] > 1
    with Kernel() as k:
        x, y = k.arguments(*_buffers(workload, layout))
        with (
            computing_in("float32"),
            vectors.rows(k, x_map.shape[0], 1, parallel) as (plane, _),
            vectors.each(k, plane) as (_, lane),
        ):
            sums = k.scratch(ACCUMULATORS * v)
            for i in range(ACCUMULATORS):
                k.store(sums, i * v, k.splat(0.0, v), v)
            start = x_map.offset(0, plane, 0, 0, lane)

            def add(i: int, position: Any) -> None:
                value = _as(k.load(x, start + position * x_map.block, v), x, "float32", v)
                k.store(sums, i * v, k.load(sums, i * v, v) + value, v)

            with k.loop(positions // ACCUMULATORS) as group:
                for i in range(ACCUMULATORS):
                    add(i, group * ACCUMULATORS + i)
            for i in range(positions % ACCUMULATORS):
                add(i, positions - 1 - i)
            total = _total([k.load(sums, i * v, v) for i in range(ACCUMULATORS)])
            mean = _as(total * k.splat(1 / positions, v), x, y.dtype, v)
            k.store(y, plane * x_map.block + lane, mean, v)
    return k.function


def _horizontal(workload: Workload, variant: Variant, lanes: int) -> Any:
    """Adds the positions of one channel after the other."""
    n, c, height, width = workload.inputs[0].shape
    positions, v = height * width, lanes
    with Kernel() as k:
        x, y = k.arguments(*_buffers(workload, "NCHW"))
        with computing_in("float32"), k.loop(n * c, variant["threads"] > 1) as channel:
            sums = k.scratch(ACCUMULATORS * v)
            for i in range(ACCUMULATORS):
                k.store(sums, i * v, k.splat(0.0, v), v)

            def add(i: int, offset: Any) -> None:
                value = _as(k.load(x, channel * positions + offset, v), x, "float32", v)
                k.store(sums, i * v, k.load(sums, i * v, v) + value, v)

            step = ACCUMULATORS * v
            with k.loop(positions // step) as group:
                for i in range(ACCUMULATORS):
                    add(i, group * step + i * v)
            whole = positions // step * step
            for i in range((positions - whole) // v):
                add(i, whole + i * v)
            total = k.bind(_total([k.load(sums, i * v, v) for i in range(ACCUMULATORS)]))
            while lanes > 1:
                lanes //= 2
                halves = [shuffle([total], 2 * lanes, range(i * lanes, (i + 1) * lanes)) for i in range(2)]
                total = k.bind(halves[0] + halves[1])
            for offset in range(positions // v * v, positions):
                total = total + _as(x[channel * positions + offset], x, "float32", 1)
            k.store(y, channel, _as(total * k.splat(1 / positions, 1), x, y.dtype, 1), 1)
    return k.function


def _as(value: Any, x: Any, dtype: Any, lanes: int) -> Any:
    """A vector in another type, unless the kernel is of float32 throughout."""
    return value if x.dtype == "float32" else cast(value, str(dtype), lanes)


def _buffers(workload: Workload, layout: str) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the arguments."""
    return [
        ("x", physical_shape(workload.inputs[0].shape, layout)),
        ("y", physical_shape(workload.outputs[0].shape, layout)),
    ]


def _total(values: list[Any]) -> Any:
    """Adds pairwise."""
    while len(values) > 1:
        values = [a + b for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]
