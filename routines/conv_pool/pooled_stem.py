"""Convolution of few input channels from NCHW with the pooling that follows, as networks begin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.conv_pool import ConvPool
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import Blocked, blocked_layouts, port_formats
from .._threads import serial_seconds, thread_counts
from .._tir import ceil_div
from ..conv2d._bands import BandReader, Geometry
from ..conv2d._blocked_conv import pack_weights
from ..conv2d._settings import tile_vectors
from ..conv2d._tiles import split_evenly
from ._kernel import PooledConvolution, convolution, convolved_rows


def _counts_alike(workload: Workload, device: Device) -> bool:
    """True if all windows of an average divide by the same number."""
    pool, size = workload.attributes.pool, ConvPool().part_workloads(workload)["pool"].inputs[0].shape[2:]
    if pool.mode == "max":
        return True
    return (pool.count_include_pad or not any(pool.padding)) and pool.overhang(*size) == (0, 0)


def _copied_bytes(workload: Workload, rows: int) -> int:
    """Bytes of the input of some pooled rows, with its padding."""
    conv = ConvPool().part_workloads(workload)["conv"]
    reader = BandReader(Geometry.of(conv), Blocked(conv.inputs[0].shape, "NCHW"), 1)
    return 4 * reader.scratch_elements("rows", convolved_rows(workload.attributes.pool, rows))


class PooledStem(Routine):
    """Direct convolution that reads NCHW; its register tiles are pooled into y as soon as they are done.

    A tile is activated and pooled along its row in registers; the result is added to the windows of all rows that the
    tile's row belongs to, which lie in the first-level cache. The map between the two is never stored. The input is
    copied with its padding, for some pooled `rows` at a time. Threads share `bands` of pooled rows; only where two
    bands meet are rows convolved twice.

    Shapes: x NCHW; conv.weight [K group][C][R][S][k]; y NCHW<c>c. One group of channels.
    Error: that of summing C R S products in float32: 2e-5 for normal data.

    Source: Alwani et al., Fused-layer CNN Accelerators (MICRO 2016).
    """

    kind = "conv_pool"
    source = "Alwani et al., Fused-layer CNN Accelerators (MICRO 2016)"
    requirements = (
        Requirement("one group of channels", lambda w, d: w.attributes.conv.groups == 1),
        Requirement("at most 8 input channels", lambda w, d: w.inputs[0].shape[1] <= 8),
        Requirement("pooling windows of at most 16x16", lambda w, d: max(w.attributes.pool.kernel) <= 16),
        Requirement("pooling windows without dilation", lambda w, d: w.attributes.pool.dilation == (1, 1)),
        Requirement("a maximum, or averages of equally many elements", _counts_alike),
    )

    def variants(self, workload: Workload, device: Device) -> Iterator[Variant]:
        """Three tile shapes in the widest layout, one in the others; copies that fit the second-level cache."""
        (n, k, height, _), conv = workload.outputs[0].shape, ConvPool().part_workloads(workload)["conv"]
        _, *taps = conv.weight_types["weight"].shape
        for threads in thread_counts(device, serial_seconds(conv, prod(taps), device)):
            bands = 1 if n % threads == 0 else min(threads, height)
            whole = ceil_div(height, bands)
            sizes = (ceil_div(whole, parts) for parts in range(1, whole + 1))
            rows = next((size for size in sizes if _copied_bytes(workload, size) <= device.l2_bytes // 2), 1)
            for index, layout in enumerate(blocked_layouts(device)):
                for most in tile_vectors(device)[: 1 if index else 3]:
                    vectors = split_evenly(ceil_div(k, device.vector_lanes), most)[0][1]
                    params = (("lanes", device.vector_lanes), ("vectors", vectors), ("bands", bands), ("rows", rows))
                    yield Variant(params, *port_formats(workload, "NCHW", layout))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """That of the convolution: a pooling does not let errors grow."""
        return 2e-5

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """The convolution's weights by groups of output-channel vectors, bias, slope."""
        own = {key.removeprefix("conv."): weight for key, weight in weights.items()}
        return pack_weights(ConvPool().part_workloads(workload)["conv"], convolution(variant), own)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """The kernel; see `PooledConvolution`."""
        return PooledConvolution(workload, variant, device).emit()

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """The copied input of all bands, as if all ran at once."""
        return workload.inputs[0].shape[0] * int(variant["bands"]) * _copied_bytes(workload, int(variant["rows"]))
