"""Fully connected layers with many zero weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.formats import canonical_format
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._products import Sizes, in_rows
from .._sparse import ERROR_BOUND, IS_SPARSE, SparseWriter, pack, settings, workspace_bytes


class Sparse(Routine):
    """Multiplies with the weights that are not zero, each with a panel of `vectors` vectors of rows.

    Rows are transposed into scratch memory and back, so that a vector holds one channel of several rows.

    Shapes: x [..., C]; weight [K, C]; y [..., K]; canonical layouts; C and K are multiples of a vector.
    Error: that of summing C products in float32.
    Source: Elsen, Dukhan, Gale and Simonyan, Fast Sparse ConvNets, CVPR 2020.
    """

    kind = "dense"
    source = "Elsen, Dukhan, Gale and Simonyan, Fast Sparse ConvNets, CVPR 2020"
    requirements = (
        IS_SPARSE,
        Requirement("float32", lambda w, d: w.inputs[0].dtype == "float32"),
        Requirement("as many rows as a vector has lanes", lambda w, d: Sizes.of_dense(w).rows >= d.vector_lanes),
        Requirement(
            "channels that are multiples of a vector",
            lambda w, d: all(extent % d.vector_lanes == 0 for extent in w.weight_types["weight"].shape),
        ),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """Widths of a panel."""
        inputs = tuple(canonical_format(tensor) for tensor in workload.inputs)
        for params in settings(Sizes.of_dense(workload), device):
            yield Variant(params, inputs, (canonical_format(workload.outputs[0]),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Summation of C products in float32."""
        return ERROR_BOUND

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """A panel for each thread."""
        return workspace_bytes(Sizes.of_dense(workload), variant)

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights that are not zero, and where they belong; bias; slope."""
        return pack(workload, variant, Sizes.of_dense(workload), weights["weight"], weights)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, [residual], values, places, begins, bias, [slope], y."""
        sizes, lanes = Sizes.of_dense(workload), int(variant["lanes"])
        x_at, y_at = in_rows(sizes.depth, lanes), in_rows(sizes.columns, lanes)
        return SparseWriter(workload, variant, sizes, x_at, y_at).function()
