"""Two-dimensional convolution of 8-bit integers, requantised to 8 bits: any kernel, stride, dilation, groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind
from softneuro_tvm.layers._convolution import sum_te
from softneuro_tvm.layers._quantized import (
    QuantizedAttributes,
    draw,
    fitted,
    requantized,
    requantized_te,
    sample_weights,
    types_of,
)
from softneuro_tvm.layers.conv2d import Conv2d, Conv2dAttributes


@dataclass(frozen=True)
class QuantizedConv2dAttributes(QuantizedAttributes):
    """Attributes of a quantised convolution.

    Args:
        strides: (vertical, horizontal).
        padding: Elements that stand for 0, i.e. `input_zero_point`, added (top, left, bottom, right).
        dilation: (vertical, horizontal).
        groups: Groups of channels; equal to C and K for a depthwise convolution.
    """

    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


class QuantizedConv2d(LayerKind):
    """``y = clamp(round(multiplier[k] * (bias[k] + conv(x - input_zero_point, weight))) + output_zero_point)``.

    Rounds halves to even. The multiplier is the input's scale times the weight's over the output's.

    Shapes: x int8 or uint8 [N, C, H, W]; weight int8 [K, C / groups, R, S] (zero point 0); bias int32 [K];
    multiplier float32 [K]; y int8 or uint8 [N, K, OH, OW].
    """

    name = "quantized_conv2d"
    Attributes = QuantizedConv2dAttributes

    def output_types(
        self,
        attributes: QuantizedConv2dAttributes,
        inputs: Sequence[TensorType],
        weights: Mapping[str, TensorType],
    ) -> tuple[TensorType, ...]:
        """Shape [N, K, OH, OW]."""
        (y,) = Conv2d().output_types(_plain(attributes), inputs, weights)
        return (TensorType(y.shape, attributes.output_dtype),)

    def reference(
        self,
        attributes: QuantizedConv2dAttributes,
        inputs: Sequence[np.ndarray],
        weights: Mapping[str, np.ndarray],
    ) -> tuple[np.ndarray, ...]:
        """Sums exactly, in float64."""
        multiplier = weights["multiplier"].reshape(1, -1, 1, 1)
        return (requantized(attributes, _sums(attributes, inputs[0], weights), multiplier),)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """Padding, the direct sum in int32, requantisation."""
        from tvm import te

        attributes, zero = workload.attributes, workload.attributes.input_zero_point

        def product(element: Any, factor: Any) -> Any:
            return (element.astype("int32") - zero) * factor.astype("int32")

        total = sum_te(workload, inputs[0], weights["weight"], zero, product)
        bias, multiplier = weights["bias"], weights["multiplier"]
        return [
            te.compute(
                total.shape,
                lambda n, f, y, z: requantized_te(attributes, total[n, f, y, z] + bias[f], multiplier[f]),
                "requantize",
            )
        ]

    def flops(self, workload: Workload) -> int:
        """Two for each multiply-add of the direct algorithm."""
        return Conv2d().flops(workload)

    def sample(self, workload: Workload, seed: int = 0) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Integers over the whole range, and multipliers with which the outputs span theirs."""
        rng = np.random.default_rng(seed)
        x, weights = draw(workload.inputs[0], rng), sample_weights(workload, rng)
        weights["multiplier"] = fitted(workload.attributes, _sums(workload.attributes, x, weights), axis=1)
        return [x], weights

    def examples(self) -> Iterable[Workload]:
        """Odd sizes, uneven channels, strides, dilation, groups, batches, asymmetric padding, all types and clamps."""
        signed = QuantizedConv2dAttributes(input_zero_point=-3, output_zero_point=5)
        rectified = QuantizedConv2dAttributes(input_zero_point=-128, output_zero_point=-128)
        unsigned = QuantizedConv2dAttributes(121, 130, 0, 255, "uint8")
        cut_off = QuantizedConv2dAttributes(0, 0, 0, 230, "uint8")
        same = (1, 1, 1, 1)
        cases: list[tuple[tuple[int, int, int, int], int, tuple[int, int], QuantizedConv2dAttributes, str]] = [
            ((1, 16, 9, 11), 32, (3, 3), replace(rectified, padding=same), "int8"),
            ((1, 32, 14, 14), 48, (3, 3), replace(cut_off, padding=same), "uint8"),
            ((2, 20, 7, 7), 36, (3, 3), replace(unsigned, padding=same), "uint8"),
            ((1, 64, 10, 10), 64, (3, 3), replace(signed, padding=same), "int8"),
            ((1, 3, 33, 31), 32, (7, 7), replace(signed, strides=(2, 2), padding=(3, 3, 3, 3)), "int8"),
            ((1, 3, 20, 20), 24, (3, 3), replace(unsigned, strides=(2, 2), padding=(0, 0, 1, 1)), "uint8"),
            ((1, 1, 8, 8), 16, (3, 3), replace(unsigned, padding=same), "uint8"),
            ((1, 64, 13, 13), 96, (1, 1), cut_off, "uint8"),
            ((1, 24, 7, 7), 40, (1, 1), signed, "int8"),
            ((2, 48, 8, 8), 32, (1, 1), replace(rectified, strides=(2, 2)), "int8"),
            ((1, 256, 7, 11), 256, (1, 1), rectified, "int8"),
            ((1, 96, 1, 1), 24, (1, 1), unsigned, "uint8"),
            ((2, 37, 5, 7), 21, (1, 1), unsigned, "uint8"),
            ((1, 32, 15, 15), 32, (3, 3), replace(cut_off, strides=(2, 2), padding=same, groups=32), "uint8"),
            ((1, 40, 14, 14), 40, (5, 5), replace(signed, padding=(2, 2, 2, 2), groups=40), "int8"),
            ((2, 20, 9, 9), 20, (3, 3), replace(unsigned, padding=same, groups=20), "uint8"),
            ((1, 16, 12, 13), 16, (3, 3), replace(rectified, padding=(0, 1, 2, 1), groups=16), "int8"),
            ((1, 64, 10, 10), 64, (3, 3), replace(cut_off, padding=same, groups=4), "uint8"),
            ((1, 24, 9, 9), 48, (3, 3), replace(signed, padding=same, groups=3), "int8"),
            ((1, 8, 9, 9), 16, (3, 3), replace(unsigned, padding=same, groups=8), "uint8"),
            ((1, 16, 12, 12), 16, (3, 3), replace(signed, padding=(2, 2, 2, 2), dilation=(2, 2)), "int8"),
            ((1, 16, 10, 12), 32, (1, 7), replace(unsigned, padding=(0, 3, 0, 3)), "uint8"),
            ((1, 20, 9, 8), 24, (3, 1), replace(rectified, padding=(1, 0, 1, 0)), "int8"),
            ((1, 16, 9, 11), 24, (3, 5), replace(unsigned, padding=(2, 6, 2, 6), dilation=(2, 3)), "uint8"),
            ((1, 5, 6, 6), 7, (2, 2), signed, "int8"),
            ((1, 16, 8, 8), 24, (3, 3), replace(unsigned, input_zero_point=-7, padding=(0, 1, 2, 1)), "int8"),
            ((1, 16, 8, 8), 24, (3, 3), replace(signed, input_zero_point=255, low=-20, padding=same), "uint8"),
        ]
        for shape, k, kernel, attributes, dtype in cases:
            weights = types_of((k, shape[1] // attributes.groups, *kernel))
            yield self.workload(attributes, [TensorType(shape, dtype)], weights)


def _plain(attributes: QuantizedConv2dAttributes) -> Conv2dAttributes:
    """The convolution of real numbers."""
    return Conv2dAttributes(attributes.strides, attributes.padding, attributes.dilation, attributes.groups)


def _sums(attributes: QuantizedConv2dAttributes, x: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """The sums, bias included: integers, held exactly by float64."""
    exact = {name: weights[name].astype(np.float64) for name in ("weight", "bias")}
    return Conv2d().reference(_plain(attributes), [x.astype(np.float64) - attributes.input_zero_point], exact)[0]
