"""Fully connected layers by Strassen's algorithm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.formats import canonical_format
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._products import Sizes, in_rows
from .._strassen import error_bound, pack, settings, workspace_bytes, worthwhile_levels
from .._strassen_kernel import StrassenWriter


class Strassen(Routine):
    """One or two `levels` of Strassen's algorithm over register tiles: 7/8 or 49/64 of the multiplications.

    Weights are summed ahead of time; they take 7/4 or 49/16 of the plain weights' memory. Only sums of activations and
    of products are made while it runs, for a block of `rows` of each group at a time, which stays in the caches.

    Shapes: x [..., C]; weight [K, C]; y [..., K]; canonical layouts; C and K are multiples of 2 or 4 vectors.
    Error: twice or four times that of a sum of C products, relative to the largest element.
    Source: Strassen, Gaussian Elimination is not Optimal, Numerische Mathematik 1969; that it pays for layers of this
    size, and the rule when, are from Jiang et al., MNN: A Universal and Efficient Inference Engine, MLSys 2020.
    """

    kind = "dense"
    source = "Strassen, Gaussian Elimination is not Optimal, Numerische Mathematik 1969; Jiang et al., MNN, MLSys 2020"
    requirements = (
        Requirement("float32", lambda w, d: w.inputs[0].dtype == "float32"),
        Requirement(
            "many rows, and channels that are multiples of two vectors, so that saved products outweigh the sums",
            lambda w, d: bool(worthwhile_levels(Sizes.of_dense(w), d)),
        ),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """Numbers of levels that pay, and widths of tiles."""
        inputs = tuple(canonical_format(tensor) for tensor in workload.inputs)
        for params in settings(Sizes.of_dense(workload), device):
            yield Variant(params, inputs, (canonical_format(workload.outputs[0]),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Grows with the number of products and with the levels."""
        return error_bound(workload.inputs[0].shape[-1], variant["levels"])

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """Sums and products of a block of rows for each thread."""
        return workspace_bytes(Sizes.of_dense(workload), variant)

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Summed weights in panels; bias; slope."""
        return pack(workload, variant, weights["weight"], weights)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, [residual], weight, bias, [slope], y."""
        sizes, lanes = Sizes.of_dense(workload), int(variant["lanes"])
        x_at, y_at = in_rows(sizes.depth, lanes), in_rows(sizes.columns, lanes)
        return StrassenWriter(workload, variant, device, sizes, x_at, y_at).function()
