"""Fully connected layers on 8-bit integers, with weights in panels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.formats import canonical_format
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers._quantized import one_unit
from softneuro_tvm.routine import Routine, Variant

from .._int8 import Dot
from .._int8_product import ProductWriter, copy_bytes, pack
from .._int8_settings import parameters
from .._int8_sources import Problem


class Packed(Routine):
    """Tiles of rows x `vectors` vectors of outputs; a panel holds the weights of a tile in the order they are read.

    Products are summed by the same `dot` instructions as in convolutions, of which this is the case of 1x1 kernels:
    rows of x are positions. They are copied where their type or length does not suit the instruction (``copy=1``).
    Threads share `bands` of rows, or `parts` of the outputs.

    Shapes: x [..., C]; weight [K, C], packed as [panel][C / group][k][element of the group]; y [..., K]; canonical
    layouts. Error: none in the sums; one unit where scaled sums lie halfway between integers.
    Source: Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, ACM TOMS 2008; Jacob et al.,
    Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018.
    """

    kind = "quantized_dense"
    source = "Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, ACM TOMS 2008"

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """Two widths of the tile; threads share rows or outputs."""
        ports = (canonical_format(workload.inputs[0]),), (canonical_format(workload.outputs[0]),)
        for params in parameters(Problem.of_dense(workload, Dot.of(device)), device):
            yield Variant(params, *ports)

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """One unit."""
        return one_unit(workload.attributes)

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """Copies of all bands for all parts, as if all ran at once."""
        return copy_bytes(Problem.of_dense(workload, Dot.chosen(variant)), variant)

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Panels, one after the other; corrected bias; multiplier."""
        return pack(workload, Problem.of_dense(workload, Dot.chosen(variant)), variant["vectors"], weights)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, weight, bias, multiplier, y."""
        problem = Problem.of_dense(workload, Dot.chosen(variant))
        return ProductWriter(problem, variant, device).emit(workload.inputs[0].shape, workload.outputs[0].shape)
