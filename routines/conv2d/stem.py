"""Convolution of few input channels from NCHW, as a network's first layer needs it."""

from __future__ import annotations

from collections.abc import Iterable

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Variant

from .._blocked import blocked_layouts
from .._half import also_in_float16
from .._lanes import rows_together
from ._blocked_conv import BlockedRoutine, float16_error
from ._settings import Choice, settings, tile_vectors


@also_in_float16(float16_error)
class Stem(BlockedRoutine):
    """Direct convolution that reads NCHW and writes channel blocks: the input needs no adapter.

    Shapes: x NCHW; weight [K group][C][R][S][k]; y NCHW<c>c or NHWC. One group of channels.

    Bands of rows are copied with their padding; register tiles are output positions x output-channel vectors, and the
    loop body runs along a kernel row. Threads share bands.

    Error: that of summing C * R * S products in float32: 2e-5 for normal data; in float16 see `_half.summing`.

    Source: Georganas et al., Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures (SC 2018).
    """

    source = "Georganas et al., Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures (2018)"
    requirements = (
        Requirement("one group of channels", lambda w, d: w.attributes.groups == 1),
        Requirement("at most 8 input channels", lambda w, d: w.inputs[0].shape[1] <= 8),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """Three tile shapes; each layout of the output."""
        targets = [*blocked_layouts(device)]
        if workload.outputs[0].shape[1] % device.vector_lanes == 0:
            targets.append("NHWC")
        # multiplying by lanes wants scalars side by side: the copy leaves out the columns between them
        by_lane = rows_together(device.vector_lanes, device.vector_registers)
        copy = "columns" if by_lane and workload.attributes.strides[1] == 2 else "rows"
        choices = [Choice(vectors, copy, False) for vectors in tile_vectors(device)]
        return settings(workload, device, choices, [("NCHW", target) for target in targets])
