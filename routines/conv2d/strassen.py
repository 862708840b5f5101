"""1x1 convolution by Strassen's algorithm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import blocked_layouts, port_formats
from .._products import Sizes, in_map
from .._strassen import error_bound, pack, settings, workspace_bytes, worthwhile_levels
from .._strassen_kernel import StrassenWriter
from ._bands import Geometry


class Strassen(Routine):
    """One or two `levels` of Strassen's algorithm over register tiles: 7/8 or 49/64 of the multiplications.

    Positions are the rows of a matrix product. Weights are summed ahead of time; they take 7/4 or 49/16 of the plain
    weights' memory. Only sums of activations and of products are made while it runs, for a block of `rows` positions of
    each group at a time, which stays in the caches.

    Shapes: x NCHW<c>c or NHWC; weight [K, C, 1, 1]; y as x; stride 1; C and K are multiples of 2 or 4 vectors.
    Error: twice or four times that of a sum of C products, relative to the largest element.
    Source: Strassen, Gaussian Elimination is not Optimal, Numerische Mathematik 1969; that it pays for layers of this
    size, and the rule when, are from Jiang et al., MNN: A Universal and Efficient Inference Engine, MLSys 2020.
    """

    kind = "conv2d"
    source = "Strassen, Gaussian Elimination is not Optimal, Numerische Mathematik 1969; Jiang et al., MNN, MLSys 2020"
    requirements = (
        Requirement("one group of channels", lambda w, d: w.attributes.groups == 1),
        Requirement("a 1x1 kernel with stride 1 and without padding", lambda w, d: Geometry.of(w).is_flat),
        Requirement(
            "many positions, and channels that are multiples of two vectors, so that saved products outweigh the sums",
            lambda w, d: bool(worthwhile_levels(Sizes.of_pointwise(w), d)),
        ),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """Numbers of levels that pay and widths of tiles for full blocks of channels; the first of them for NHWC."""
        found = settings(Sizes.of_pointwise(workload), device)
        blocked = blocked_layouts(device)[0]
        for params in found:
            yield Variant(params, *port_formats(workload, blocked, blocked))
        for params in found[:1]:
            yield Variant(params, *port_formats(workload, "NHWC", "NHWC"))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Grows with the number of products and with the levels."""
        return error_bound(workload.inputs[0].shape[1], variant["levels"])

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """Sums and products of a block of positions for each thread."""
        return workspace_bytes(Sizes.of_pointwise(workload), variant)

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Summed weights in panels; bias; slope."""
        return pack(workload, variant, weights["weight"][:, :, 0, 0], weights)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, [residual], weight, bias, [slope], y."""
        lanes, layout = int(variant["lanes"]), variant.inputs[0].layout
        x_at, y_at = (in_map(tensor.shape, layout, lanes) for tensor in (workload.inputs[0], workload.outputs[0]))
        return StrassenWriter(workload, variant, device, Sizes.of_pointwise(workload), x_at, y_at).function()
