"""Fully connected layer on 8-bit integers, with requantisation to 8 bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind
from softneuro_tvm.layers._quantized import (
    QuantizedAttributes,
    draw,
    fitted,
    requantized,
    requantized_te,
    sample_weights,
    types_of,
)


@dataclass(frozen=True)
class QuantizedDenseAttributes(QuantizedAttributes):
    """Attributes of a quantised fully connected layer."""


class QuantizedDense(LayerKind):
    """``y = clamp(round(multiplier[k] * (bias[k] + (x - input_zero_point) @ weight.T)) + output_zero_point)``.

    Rounds halves to even. The multiplier is the input's scale times the weight's over the output's.

    Shapes: x int8 or uint8 [..., C] of rank 2 or more; weight int8 [K, C] (zero point 0); bias int32 [K];
    multiplier float32 [K]; y int8 or uint8 [..., K].
    """

    name = "quantized_dense"
    Attributes = QuantizedDenseAttributes

    def output_types(
        self, attributes: QuantizedDenseAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """Shape [..., K]."""
        return (TensorType((*inputs[0].shape[:-1], weights["weight"].shape[0]), attributes.output_dtype),)

    def reference(
        self, attributes: QuantizedDenseAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """Sums exactly, in float64."""
        return (requantized(attributes, _sums(attributes, inputs[0], weights), weights["multiplier"]),)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """The sum in int32, requantisation."""
        from tvm import te, tirx

        attributes, x, weight = workload.attributes, inputs[0], weights["weight"]
        zero = tirx.const(attributes.input_zero_point, "int32")
        c = te.reduce_axis((0, int(weight.shape[1])))
        shape = workload.outputs[0].shape

        def summed(*i: Any) -> Any:
            return te.sum((x(*i[:-1], c).astype("int32") - zero) * weight[i[-1], c].astype("int32"), [c])

        total = te.compute(shape, summed, "quantized_dense")
        bias, multiplier = weights["bias"], weights["multiplier"]
        return [
            te.compute(
                shape,
                lambda *i: requantized_te(attributes, total(*i) + bias[i[-1]], multiplier[i[-1]]),
                "requantize",
            )
        ]

    def flops(self, workload: Workload) -> int:
        """Two for each multiply-add."""
        return 2 * int(np.prod(workload.outputs[0].shape)) * workload.inputs[0].shape[-1]

    def sample(self, workload: Workload, seed: int = 0) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Integers over the whole range, and multipliers with which the outputs span theirs."""
        rng = np.random.default_rng(seed)
        x, weights = draw(workload.inputs[0], rng), sample_weights(workload, rng)
        sums = _sums(workload.attributes, x, weights)
        weights["multiplier"] = fitted(workload.attributes, sums, axis=sums.ndim - 1)
        return [x], weights

    def examples(self) -> Iterable[Workload]:
        """Vectors and matrices, batches, uneven sizes, higher ranks, both types, every kind of clamp."""
        signed = QuantizedDenseAttributes(-3, 5)
        rectified = QuantizedDenseAttributes(-128, -128)
        unsigned = QuantizedDenseAttributes(121, 130, 0, 255, "uint8")
        cut_off = QuantizedDenseAttributes(0, 0, 0, 230, "uint8")
        cases: list[tuple[tuple[int, ...], int, QuantizedDenseAttributes, str]] = [
            ((1, 64), 48, signed, "int8"),
            ((1, 37), 10, unsigned, "uint8"),
            ((2, 40), 33, rectified, "int8"),
            ((16, 32), 64, cut_off, "uint8"),
            ((1, 9, 24), 20, signed, "int8"),
            ((2, 3, 5, 16), 24, unsigned, "uint8"),
            ((3, 16), 16, QuantizedDenseAttributes(-7, 130, 0, 255, "uint8"), "int8"),
            ((5, 33), 17, QuantizedDenseAttributes(255, 5, -20, 127), "uint8"),
            ((1, 512), 1000, unsigned, "uint8"),
            ((1, 200), 150, rectified, "int8"),
            ((70, 512), 256, cut_off, "uint8"),
            ((37, 64), 48, signed, "int8"),
        ]
        for shape, k, attributes, dtype in cases:
            yield self.workload(attributes, [TensorType(shape, dtype)], types_of((k, shape[-1])))


def _sums(attributes: QuantizedDenseAttributes, x: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """The sums, bias included: integers, held exactly by float64."""
    exact = x.astype(np.float64) - attributes.input_zero_point
    return np.asarray(exact @ weights["weight"].astype(np.float64).T + weights["bias"].astype(np.float64))
