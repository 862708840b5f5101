"""Whether a kernel is worth spreading over threads."""

from __future__ import annotations

from math import prod

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload

LAUNCH_SECONDS = 5e-6
"""What it costs to start the threads of the pool and to wait for them."""

BYTES_PER_SECOND = 60e9
"""Rate at which one thread moves feature maps that lie in its caches."""

VECTORS_PER_SECOND = 4e9
"""Vector operations of one thread, about half of the usual peak."""


def serial_seconds(workload: Workload, terms: int, device: Device) -> float:
    """Rough time of one thread, from the feature maps moved and the terms that each output element sums."""
    moved = sum(tensor.size_bytes for tensor in (*workload.inputs, *workload.outputs))
    total = prod(workload.outputs[0].shape) * terms
    return max(moved / BYTES_PER_SECOND, total / (VECTORS_PER_SECOND * device.vector_lanes))


def thread_counts(device: Device, seconds: float) -> tuple[int, ...]:
    """Numbers of threads worth measuring for a kernel that takes one thread this long."""
    if device.threads == 1 or seconds < LAUNCH_SECONDS:
        return (1,)
    return (device.threads, 1) if seconds < 5 * LAUNCH_SECONDS else (device.threads,)
