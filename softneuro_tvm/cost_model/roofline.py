"""The least time that a workload could take on a device by nominal figures: the unit in which the model predicts."""

from __future__ import annotations

from softneuro_tvm.device import Device

CLOCK_HZ = 3e9
"""Of every core; the device's speed factor corrects it."""
PIPES = 2
"""Vector instructions that a core starts in each cycle."""
BANDWIDTHS = (100e9, 50e9, 25e9, 10e9)
"""Bytes a second from the first-, second- and third-level cache of one core, and from memory."""
CALL_S = 1e-7
"""Time of a kernel's call that does nothing; differences below it are not told apart."""


def peak_flops(device: Device) -> float:
    """Nominal floating-point operations a second: all threads, both pipes, full vectors."""
    return CLOCK_HZ * PIPES * device.vector_lanes * (2 if device.fma else 1) * device.threads


def _level(size_bytes: float, device: Device) -> int:
    """The smallest cache that holds so much: 0, 1, 2; 3 for memory."""
    sizes = (device.l1_bytes, device.l2_bytes * device.threads, device.l3_bytes)
    return next((level for level, size in enumerate(sizes) if size_bytes <= size), 3)


def roofline_s(flops: float, activation_bytes: float, weight_bytes: float, residency: str, device: Device) -> float:
    """Seconds by the roofline: the longer of computing and moving data.

    Args:
        flops: Of the plain algorithm.
        activation_bytes: Read and written once.
        weight_bytes: Read once.
        residency: Where the weights lie: ``l2``, ``l3`` or ``dram``.
        device: What computes.

    Source: Williams, Waterman and Patterson, Roofline (CACM 2009).
    """
    level = _level(activation_bytes, device)
    weight_level = max({"l2": 1, "l3": 2, "dram": 3}[residency], _level(weight_bytes, device)) if weight_bytes else 0
    shared = 1 if level == 3 else device.threads
    weights_shared = 1 if weight_level == 3 else device.threads
    moving_s = activation_bytes / (BANDWIDTHS[level] * shared)
    moving_s += weight_bytes / (BANDWIDTHS[weight_level] * weights_shared)
    return CALL_S + max(flops / peak_flops(device), moving_s)
