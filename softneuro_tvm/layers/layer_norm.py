"""Layer normalisation over the trailing axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind, Operand, Recognised
from softneuro_tvm.layers._numpy import normalise_axes


@dataclass(frozen=True)
class LayerNormAttributes:
    """Attributes of a layer normalisation.

    Args:
        axes: The last axes, counted from the front, ascending.
        epsilon: Added to the variance.
    """

    axes: tuple[int, ...]
    epsilon: float = 1e-5


class LayerNorm(LayerKind):
    """``y = (x - mean) / sqrt(variance + epsilon) * gamma + beta``, mean and variance over the axes.

    Shapes: x of any rank from 1; gamma, beta: the extents of the axes; y as x. float32.
    """

    name = "layer_norm"
    Attributes = LayerNormAttributes
    relax_operators = ("relax.nn.layer_norm",)

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """Recognises float32 normalisation over trailing axes with constant gamma and beta."""
        data, gamma, beta = operands
        if data.value is not None or gamma.value is None or beta.value is None or data.type.dtype != "float32":
            return None
        rank = data.type.rank
        axes = normalise_axes(attrs.axes, rank)
        shape = data.type.shape[rank - len(axes) :]
        if axes != tuple(range(rank - len(axes), rank)) or not gamma.type.shape == beta.type.shape == shape:
            return None
        scale = gamma.value if attrs.scale else np.ones(shape, "float32")
        offset = beta.value if attrs.center else np.zeros(shape, "float32")
        return Recognised(LayerNormAttributes(axes, float(attrs.epsilon)), (0,), {"gamma": scale, "beta": offset})

    def output_types(
        self, attributes: LayerNormAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """The input's type."""
        return (inputs[0],)

    def reference(
        self, attributes: LayerNormAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """In two passes."""
        x, axes = inputs[0], attributes.axes
        centred = x - x.mean(axis=axes, keepdims=True)
        variance = np.square(centred).mean(axis=axes, keepdims=True)
        return (centred / np.sqrt(variance + attributes.epsilon) * weights["gamma"] + weights["beta"],)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """Mean, variance in a second pass, scaling."""
        from tvm import te, tirx

        x, shape = inputs[0], workload.outputs[0].shape
        first = len(shape) - len(workload.attributes.axes)
        kept, reduced = shape[:first] or (1,), shape[first:]
        scale = 1.0 / math.prod(reduced)
        epsilon = tirx.const(workload.attributes.epsilon, "float32")

        def row(i: Sequence[Any]) -> Sequence[Any]:
            return i[:first] if first else (0,)

        def summed(value: Callable[..., Any], name: str) -> Any:
            axes = [te.reduce_axis((0, extent)) for extent in reduced]
            return te.compute(kept, lambda *i: te.sum(value(*(i if first else ()), *axes), axis=axes), name)

        total = summed(x, "total")

        def centred(*i: Any) -> Any:
            return x(*i) - total(*row(i)) * scale

        squares = summed(lambda *i: centred(*i) * centred(*i), "squares")

        def normalised(*i: Any) -> Any:
            deviation = tirx.sqrt(squares(*row(i)) * scale + epsilon)
            return centred(*i) / deviation * weights["gamma"](*i[first:]) + weights["beta"](*i[first:])

        return [te.compute(shape, normalised, "layer_norm")]

    def flops(self, workload: Workload) -> int:
        """Seven for each element: two sums, square, subtract, scale twice, add."""
        return 7 * int(np.prod(workload.outputs[0].shape))

    def examples(self) -> Iterable[Workload]:
        """One and two axes, ranks 1 to 4, uneven extents, batches."""
        cases: list[tuple[tuple[int, ...], int, float]] = [
            ((2, 9, 32), 1, 1e-5),
            ((1, 5, 37), 1, 1e-6),
            ((2, 4, 6), 2, 1e-5),
            ((3, 48), 1, 1e-12),
            ((1, 3, 4, 20), 1, 1e-5),
            ((16,), 1, 1e-5),
        ]
        for shape, count, epsilon in cases:
            axes = tuple(range(len(shape) - count, len(shape)))
            weights = {key: TensorType(shape[-count:]) for key in ("gamma", "beta")}
            yield self.workload(LayerNormAttributes(axes, epsilon), [TensorType(shape)], weights)
