"""1x1 convolution with many zero weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import blocked_layouts, port_formats
from .._products import Sizes, in_map
from .._sparse import ERROR_BOUND, IS_SPARSE, SparseWriter, pack, settings, workspace_bytes
from ._bands import Geometry


class Sparse(Routine):
    """Multiplies with the weights that are not zero, each with a panel of `vectors` vectors of positions.

    Positions are transposed into scratch memory and back, so that a vector holds one channel of several positions.

    Shapes: x NCHW<c>c or, if C and K are multiples of a vector, NHWC; weight [K, C, 1, 1]; y as x; stride 1.
    Error: that of summing C products in float32.
    Source: Elsen, Dukhan, Gale and Simonyan, Fast Sparse ConvNets, CVPR 2020.
    """

    kind = "conv2d"
    source = "Elsen, Dukhan, Gale and Simonyan, Fast Sparse ConvNets, CVPR 2020"
    requirements = (
        IS_SPARSE,
        Requirement("one group of channels", lambda w, d: w.attributes.groups == 1),
        Requirement("a 1x1 kernel with stride 1 and without padding", lambda w, d: Geometry.of(w).is_flat),
        Requirement("as many positions as a vector has lanes", lambda w, d: _positions(w) >= d.vector_lanes),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """Widths of a panel for full blocks of channels; the first of them for NHWC."""
        found = settings(Sizes.of_pointwise(workload), device)
        blocked = blocked_layouts(device)[0]
        for params in found:
            yield Variant(params, *port_formats(workload, blocked, blocked))
        if all(extent % device.vector_lanes == 0 for extent in workload.weight_types["weight"].shape[:2]):
            yield Variant(found[0], *port_formats(workload, "NHWC", "NHWC"))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Summation of C products in float32."""
        return ERROR_BOUND

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """A panel for each thread."""
        return workspace_bytes(Sizes.of_pointwise(workload), variant)

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights that are not zero, and where they belong; bias; slope."""
        return pack(workload, variant, Sizes.of_pointwise(workload), weights["weight"][:, :, 0, 0], weights)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, [residual], values, places, begins, bias, [slope], y."""
        lanes, layout = int(variant["lanes"]), variant.inputs[0].layout
        x_at, y_at = (in_map(tensor.shape, layout, lanes) for tensor in (workload.inputs[0], workload.outputs[0]))
        return SparseWriter(workload, variant, Sizes.of_pointwise(workload), x_at, y_at).function()


def _positions(workload: Workload) -> int:
    return Sizes.of_pointwise(workload).rows
