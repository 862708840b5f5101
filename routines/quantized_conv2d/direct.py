"""Direct convolution of 8-bit integers: any kernel, stride, dilation and padding; 1x1 as a matrix product."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.formats import physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers._quantized import one_unit
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._int8 import LAYOUT, Dot, formats
from .._int8_product import ProductWriter, copy_bytes, pack
from .._int8_settings import parameters
from .._int8_sources import Problem

FEW_CHANNELS = 4
"""Up to so many are read from NCHW, so that the network's input needs no adapter: copies of bands interleave planes."""


class Direct(Routine):
    """Register tiles of output positions x vectors of output channels, summed in int32.

    Shapes: x NCHW16c, or NCHW with few channels; weight [K group][R][S][C step][group][k][channel of the group],
    where S and C are one axis for NCHW, as neighbouring columns lie side by side; y NCHW16c. One group of channels.

    A `dot` instruction sums products of 2 or 4 neighbouring input channels in each lane: ``vpdpbusd`` (AVX-512 VNNI,
    AVX-VNNI), ``sdot`` (ARM with the dot product extension), ``smull`` and ``sadalp`` (other ARM), ``pmaddwd`` on
    16-bit integers (other x86). The input is computed in bands of rows, copied with their padding and converted to the
    type that the instruction takes (``copy=1``), or read in place where nothing is to be converted. Zero points are
    not subtracted: the bias takes up what they add. Threads share bands, or `parts` of the output channels.

    Error: none in the sums; one unit where scaled sums lie halfway between integers.
    Source: Rodriguez et al., Lower Numerical Precision Deep Learning Inference and Training, Intel 2018;
    Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR
    2018.
    """

    kind = "quantized_conv2d"
    source = (
        "Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
    )
    requirements = (Requirement("one group of channels", lambda w, d: w.attributes.groups == 1),)

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """Two tile shapes; threads share rows or channels."""
        few = workload.inputs[0].shape[1] <= FEW_CHANNELS and workload.attributes.dilation[1] == 1
        layout = "NCHW" if few else LAYOUT
        for params in parameters(Problem.of_convolution(workload, layout, LAYOUT, Dot.of(device)), device):
            yield Variant(params, *formats(workload, layout, LAYOUT))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """One unit."""
        return one_unit(workload.attributes)

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """Copies of all bands for all parts, as if all ran at once."""
        return copy_bytes(self._of(workload, variant), variant)

    @staticmethod
    def _of(workload: Workload, variant: Variant) -> Problem:
        return Problem.of_convolution(
            workload, variant.inputs[0].layout, variant.outputs[0].layout, Dot.chosen(variant)
        )

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights by groups of output-channel vectors, corrected bias, multiplier."""
        return pack(workload, self._of(workload, variant), variant["vectors"], weights)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, weight, bias, multiplier, y."""
        shapes = (
            physical_shape(tensor.shape, port.layout)
            for tensor, port in (
                (workload.inputs[0], variant.inputs[0]),
                (workload.outputs[0], variant.outputs[0]),
            )
        )
        return ProductWriter(self._of(workload, variant), variant, device).emit(*shapes)
