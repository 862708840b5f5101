"""Arithmetic on every element between 8-bit integers: quantisation, its inverse, sums and functions without floats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind, Operand, Recognised
from softneuro_tvm.layers._numpy import FUNCTIONS
from softneuro_tvm.layers._quantized import DTYPES, Quantization, dequantized, draw, quantized
from softneuro_tvm.layers.elementwise import ElementwiseAttributes, Expression, evaluate


@dataclass(frozen=True)
class QuantizedElementwiseAttributes(ElementwiseAttributes):
    """Attributes of an elementwise layer that reads or writes integers.

    Args:
        expression: As in `ElementwiseAttributes`, over the real numbers that the inputs stand for; empty for ``x0``.
        inputs: What the elements of each input stand for; None for float32.
        output: What the elements of the output stand for; None for float32.
        output_dtype: ``int8``, ``uint8`` or ``float32``.
    """

    inputs: tuple[Quantization | None, ...]
    output: Quantization | None
    output_dtype: str


def value(attributes: QuantizedElementwiseAttributes, inputs: Sequence[Any], weights: Sequence[Any], table: Any) -> Any:
    """The expression's value, as by `softneuro_tvm.layers.elementwise.evaluate`."""
    return evaluate(attributes.expression, inputs, weights, table) if attributes.expression else inputs[0]


def has_vector_form(expression: Expression) -> bool:
    """True if routines for this kind can evaluate an expression."""
    return all(operator not in ("sin", "cos", "pow") for operator, _ in expression)


class QuantizedElementwise(LayerKind):
    """``y = quantize(expression(dequantize(x0), dequantize(x1).., w0, w1..))`` with numpy's broadcasting.

    ``dequantize(x) = (x - zero_point) * scale``; ``quantize(y) = clamp(round(y / scale) + zero_point)``, halves to
    even. Inputs and output are int8, uint8 or float32, constants float32.
    """

    name = "quantized_elementwise"
    Attributes = QuantizedElementwiseAttributes
    relax_operators = ("relax.quantize", "relax.dequantize")

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """Recognises conversions between float32 and 8-bit integers with one constant scale and zero point."""
        data, scale, zero_point = operands
        if scale.value is None or zero_point.value is None or scale.value.size != 1 or zero_point.value.size != 1:
            return None
        found = Quantization(float(np.float32(scale.value.reshape(()))), int(zero_point.value.reshape(())))
        source, target = data.type.dtype, str(attrs.out_dtype)
        if operator == "relax.quantize" and source == "float32" and target in DTYPES:
            return Recognised(QuantizedElementwiseAttributes((), (None,), found, target), (0,), {})
        if operator == "relax.dequantize" and source in DTYPES and target == "float32":
            return Recognised(QuantizedElementwiseAttributes((), (found,), None, target), (0,), {})
        return None

    def output_types(
        self,
        attributes: QuantizedElementwiseAttributes,
        inputs: Sequence[TensorType],
        weights: Mapping[str, TensorType],
    ) -> tuple[TensorType, ...]:
        """All shapes broadcast together."""
        shapes = [tensor.shape for tensor in (*inputs, *weights.values())]
        return (TensorType(tuple(np.broadcast_shapes(*shapes)), attributes.output_dtype),)

    def reference(
        self,
        attributes: QuantizedElementwiseAttributes,
        inputs: Sequence[np.ndarray],
        weights: Mapping[str, np.ndarray],
    ) -> tuple[np.ndarray, ...]:
        """Operator by operator, in float64."""
        numbers = [
            x.astype(np.float64) if quantization is None else dequantized(x, quantization)
            for x, quantization in zip(inputs, attributes.inputs, strict=True)
        ]
        constants = [weights[f"w{i}"] for i in range(attributes.count("w"))]
        y = np.asarray(value(attributes, numbers, constants, FUNCTIONS))
        return (y if attributes.output is None else quantized(y, attributes.output, attributes.output_dtype),)

    def flops(self, workload: Workload) -> int:
        """One for each operator and element, two for each element that is converted."""
        attributes = workload.attributes
        converted = [tensor for tensor in (*workload.inputs, *workload.outputs) if tensor.dtype in DTYPES]
        operators = len(attributes.expression) * int(np.prod(workload.outputs[0].shape))
        return operators + 2 * sum(int(np.prod(tensor.shape)) for tensor in converted)

    def sample(self, workload: Workload, seed: int = 0) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Integers over the whole range; numbers over the range of an integer output, and a little beyond."""
        inputs, weights = super().sample(workload, seed)
        rng, attributes = np.random.default_rng(seed), workload.attributes
        for position, tensor in enumerate(workload.inputs):
            if tensor.dtype in DTYPES:
                inputs[position] = draw(tensor, rng)
            elif attributes.output is not None:
                limits, (scale, zero_point) = np.iinfo(attributes.output_dtype), attributes.output
                reached = rng.uniform(limits.min - 2, limits.max + 2, tensor.shape) - zero_point
                inputs[position] = (reached * scale).astype("float32")
        return inputs, weights

    def examples(self) -> Iterable[Workload]:
        """Both conversions, sums, products, activations, constants, broadcasting, uneven channels, batches."""
        a, b, c = Quantization(0.02, 3), Quantization(0.015, -11), Quantization(0.05, 120)
        full, channel = (2, 20, 5, 7), (2, 20, 1, 1)
        add: Expression = (("add", ("x0", "x1")),)
        cases: list[
            tuple[
                Sequence[tuple[tuple[int, ...], Quantization | None, str]],
                Sequence[tuple[int, ...]],
                Expression,
                Quantization | None,
                str,
            ]
        ] = [
            ([((1, 32, 6, 6), None, "float32")], (), (), a, "int8"),
            ([((1, 3, 9, 11), None, "float32")], (), (), c, "uint8"),
            ([((3, 37), None, "float32")], (), (), a, "int8"),
            ([((1, 32, 6, 6), a, "int8")], (), (), None, "float32"),
            ([((2, 20, 5, 7), c, "uint8")], (), (), None, "float32"),
            ([((7,), c, "uint8")], (), (), None, "float32"),
            ([(full, c, "uint8")], (), (), a, "int8"),
            ([(full, a, "int8"), (full, b, "int8")], (), add, Quantization(0.01, 4), "int8"),
            ([(full, c, "uint8"), (full, c, "uint8")], (), (*add, ("relu", ("t0",))), Quantization(0.04), "uint8"),
            ([((1, 1, 5), a, "int8"), ((4, 3, 1), a, "int8")], (), add, Quantization(0.01), "int8"),
            ([(full, c, "uint8"), (channel, a, "int8")], (), (("mul", ("x0", "x1")),), Quantization(0.02, 99), "uint8"),
            ([(full, a, "int8"), (full, None, "float32")], (), add, None, "float32"),
            ([(full, a, "int8")], ((1, 20, 1, 1),), (("mul", ("x0", "w0")),), None, "float32"),
            ([((1, 24, 3, 5), c, "uint8")], (), (("sigmoid", ("x0",)),), Quantization(1 / 256), "uint8"),
            ([((1, 24, 3, 5), c, "uint8")], (), (("hard_swish", ("x0",)),), Quantization(0.02), "uint8"),
            ([((1, 24, 3, 5), a, "int8")], (), (("leaky_relu", ("x0", 0.1)),), Quantization(0.009, -128), "int8"),
        ]
        for inputs, constants, expression, output, dtype in cases:
            quantizations = tuple(quantization for _, quantization, _ in inputs)
            attributes = QuantizedElementwiseAttributes(expression, quantizations, output, dtype)
            weights = {f"w{i}": TensorType(shape) for i, shape in enumerate(constants)}
            yield self.workload(attributes, [TensorType(shape, kind) for shape, _, kind in inputs], weights)
