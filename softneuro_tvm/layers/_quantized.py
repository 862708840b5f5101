"""What layers on 8-bit integers have in common: scales, zero points, requantisation of an int32 sum, sample data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload

DTYPES = ("int8", "uint8")
"""Element types of quantised tensors."""


class Quantization(NamedTuple):
    """Which real numbers a tensor's integers stand for: ``(q - zero_point) * scale``.

    Equals a plain tuple, which is what a stored measurement holds: take it apart rather than ask for fields.

    Args:
        scale: Positive; a float32.
        zero_point: Of the tensor's own type.
    """

    scale: float
    zero_point: int = 0


@dataclass(frozen=True)
class QuantizedAttributes:
    """How a layer's 8-bit input and output stand for real numbers, as far as integers see it.

    Args:
        input_zero_point: The input's element that stands for 0.
        output_zero_point: The output's element that stands for 0.
        low: Smallest element of the output: where it saturates, or where a folded activation cuts it off.
        high: Largest element of the output.
        output_dtype: ``int8`` or ``uint8``; the bounds lie within it.
    """

    input_zero_point: int = 0
    output_zero_point: int = 0
    low: int = -128
    high: int = 127
    output_dtype: str = "int8"


def one_unit(attributes: QuantizedAttributes) -> float:
    """Error bound of a routine that may round a tie the other way: one step of the output, which spans its range."""
    return 1.01 / max(abs(attributes.low), abs(attributes.high))


def dequantized(integers: np.ndarray, quantization: Quantization) -> np.ndarray:
    """The real numbers in float64."""
    scale, zero_point = quantization
    return (integers.astype(np.float64) - zero_point) * scale


def quantized(numbers: np.ndarray, quantization: Quantization, dtype: str) -> np.ndarray:
    """The nearest integers of a type, halves to even."""
    limits, (scale, zero_point) = np.iinfo(dtype), quantization
    shifted = np.rint(numbers / scale) + zero_point
    return np.asarray(np.clip(shifted, limits.min, limits.max), dtype)


def requantized(attributes: QuantizedAttributes, total: np.ndarray, multiplier: np.ndarray) -> np.ndarray:
    """The output for exact sums, bias included; `multiplier` broadcasts against them.

    The product is a float32 one, as in ONNX's operators: so every kernel that rounds as IEEE 754 says agrees exactly.
    """
    rounded = np.rint(total.astype(np.float32) * multiplier.astype(np.float32))
    shifted = rounded.astype(np.float64) + attributes.output_zero_point
    return np.asarray(np.clip(shifted, attributes.low, attributes.high), attributes.output_dtype)


def requantized_te(attributes: QuantizedAttributes, total: Any, multiplier: Any) -> Any:
    """The same of an int32 TIR expression."""
    from tvm import tirx

    rounded = tirx.nearbyint(total.astype("float32") * multiplier)
    shifted = rounded + tirx.const(attributes.output_zero_point, "float32")
    low, high = (tirx.const(bound, "float32") for bound in (attributes.low, attributes.high))
    return tirx.max(tirx.min(shifted, high), low).astype("int32").astype(attributes.output_dtype)


def draw(tensor: TensorType, rng: np.random.Generator) -> np.ndarray:
    """Elements that span the whole range of an integer type, the ends included; -127 to 127 for int8."""
    limits = np.iinfo(tensor.dtype)
    low = max(int(limits.min), -int(limits.max))
    return rng.integers(low, int(limits.max) + 1, tensor.shape).astype(tensor.dtype)


def sample_weights(workload: Workload, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights over all of int8, biases of the size of the sums; the multipliers are 1: `fitted` gives real ones."""
    types = workload.weight_types
    weight = draw(types["weight"], rng)
    terms = int(np.prod(weight.shape[1:]))
    spread = int(60 * 70 * np.sqrt(terms))  # of a sum of products of int8 elements
    bias = rng.integers(-spread, spread + 1, types["bias"].shape).astype("int32")
    return {"weight": weight, "bias": bias, "multiplier": np.ones(types["multiplier"].shape, "float32")}


def fitted(attributes: QuantizedAttributes, total: np.ndarray, axis: int) -> np.ndarray:
    """Multipliers with which each channel's outputs reach the ends of the range, and a little beyond.

    Args:
        attributes: Of the layer.
        total: The sums, bias included.
        axis: Of the channels.
    """
    others = tuple(i for i in range(total.ndim) if i != axis)
    reach = max(attributes.high - attributes.output_zero_point, attributes.output_zero_point - attributes.low)
    return np.asarray(1.2 * reach / np.maximum(np.abs(total).max(axis=others), 1), "float32")


def types_of(weight: tuple[int, ...]) -> Mapping[str, TensorType]:
    """Types of all weights of a layer, given the shape of the weight proper, whose first axis is the channels'."""
    return {
        "weight": TensorType(weight, "int8"),
        "bias": TensorType(weight[:1], "int32"),
        "multiplier": TensorType(weight[:1], "float32"),
    }
