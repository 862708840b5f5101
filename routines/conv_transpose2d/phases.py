"""Transposed convolution of channel-blocked maps, one ordinary convolution for each phase of the stride."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import Blocked, blocked_layouts, port_formats
from .._tir import ceil_div, round_up
from ..conv2d._settings import tile_vectors
from ._kernel import PhaseConvolution, Plan, copied_shape, pack_weights


class Phases(Routine):
    """Register tiles of outputs of one phase x output-channel vectors.

    Outputs whose positions agree modulo the stride form a phase. They read the same kernel positions, so a phase is an
    ordinary convolution of stride 1 with part of the kernel, written to every stride-th position. No product with a
    zero is computed. Where all phases read the same single inputs (a kernel as large as the stride) they are one
    matrix product: its columns are the channels of all phases. Rows are computed in bands, whose input is copied with
    zeros around it where the kernel reaches beyond the map. Threads share bands, or `parts` of the vectors.

    Shapes: x NCHW<c>c or NHWC; weight [group][phase][C block][taps][c][k]; y NCHW<c>c or NHWC. One group of channels.

    Error: that of summing C * R * S products in float32: 2e-5 for normal data.

    Source: Shi et al., Is the deconvolution layer the same as a convolutional layer? (2016); Goto and van de Geijn,
    Anatomy of High-Performance Matrix Multiplication (TOMS 2008).
    """

    kind = "conv_transpose2d"
    source = "Shi et al., Is the deconvolution layer the same as a convolutional layer? (2016)"
    requirements = (Requirement("one group of channels", lambda w, d: w.attributes.groups == 1),)

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """Tile shapes for full blocks; one for each other pair of layouts."""
        lanes = device.vector_lanes
        _, c, _, _ = workload.inputs[0].shape
        k = workload.outputs[0].shape[1]
        full, *halves = blocked_layouts(device)
        pairs = [(full, full), *((half, half) for half in halves)]
        for half in halves:
            if round_up(c, lanes // 2) != round_up(c, lanes):
                pairs.append((half, full))
            if round_up(k, lanes // 2) != round_up(k, lanes):
                pairs.append((full, half))
        if c % 4 == 0 and k % lanes == 0:
            pairs.append(("NHWC", "NHWC"))
        found: dict[Variant, None] = {}
        sizes = tile_vectors(device)
        for source, target in pairs:
            for vectors in sizes if source == target == full else sizes[:1]:
                for by_channels in (False, True)[: min(2, device.threads)]:
                    found[self._variant(workload, device, (source, target), vectors, by_channels)] = None
        return found

    @staticmethod
    def _variant(
        workload: Workload, device: Device, layouts: tuple[str, str], vectors: int, by_channels: bool
    ) -> Variant:
        """Bands whose input stays in the second-level cache; threads share them, or the vectors."""
        plan = Plan.of(workload, layouts[0], device.vector_lanes, vectors)
        batch, _, _, width = workload.inputs[0].shape
        rows, parts = plan.rows.count, 1
        per_row = 4 * plan.depth * width
        bands = next(n for n in range(1, rows + 1) if per_row * ceil_div(rows, n) <= device.l2_bytes // 4 or n == rows)
        if device.threads > 1 and batch % device.threads:
            if by_channels:
                parts = min(device.threads, sum(count for count, _ in plan.groups))
            else:
                bands = min(rows, round_up(bands, device.threads))
        params = (("lanes", plan.lanes), ("vectors", plan.groups[0][1]), ("bands", bands), ("parts", parts))
        return Variant(params, *port_formats(workload, *layouts))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Summation of C * R * S products in float32."""
        return 2e-5

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """The kernel; see `PhaseConvolution`."""
        return PhaseConvolution(workload, variant, device).emit()

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights by groups of vectors and phases, bias, slope."""
        return pack_weights(workload, variant, weights)

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """Copies of all bands for all parts, as if all ran at once."""
        layout, bands = variant.inputs[0].layout, int(variant["bands"])
        plan = Plan.of(workload, layout, int(variant["lanes"]), int(variant["vectors"]))
        if not plan.is_padded:
            return 0
        source = Blocked(workload.inputs[0].shape, layout)
        rows, columns = copied_shape(plan, ceil_div(plan.rows.count, bands))
        tasks = source.shape[0] * bands * int(variant["parts"])
        return 4 * tasks * source.blocks * source.block * rows * columns
