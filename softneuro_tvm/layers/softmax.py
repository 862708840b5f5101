"""Softmax along one axis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind, Operand, Recognised
from softneuro_tvm.layers._numpy import normalise_axis


@dataclass(frozen=True)
class SoftmaxAttributes:
    """Attributes of a softmax.

    Args:
        axis: Counted from the front.
    """

    axis: int


class Softmax(LayerKind):
    """``y = exp(x - max(x)) / sum(exp(x - max(x)))`` along the axis; float32, any rank from 1."""

    name = "softmax"
    Attributes = SoftmaxAttributes
    relax_operators = ("relax.nn.softmax",)

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """Recognises float32 softmax."""
        data = operands[0]
        if data.value is not None or data.type.dtype != "float32" or data.type.rank == 0:
            return None
        return Recognised(SoftmaxAttributes(normalise_axis(attrs.axis, data.type.rank)), (0,), {})

    def output_types(
        self, attributes: SoftmaxAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """The input's type."""
        return (inputs[0],)

    def reference(
        self, attributes: SoftmaxAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """With the largest value subtracted first."""
        e = np.exp(inputs[0] - inputs[0].max(axis=attributes.axis, keepdims=True))
        return (e / e.sum(axis=attributes.axis, keepdims=True),)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """Maximum, exponentials, sum, quotient."""
        from tvm import te, tirx

        x, axis, shape = inputs[0], workload.attributes.axis, workload.outputs[0].shape
        kept = [extent for position, extent in enumerate(shape) if position != axis] or [1]

        def along(reduced: Any, i: Sequence[Any]) -> Sequence[Any]:
            own = i if len(shape) > 1 else ()
            return (*own[:axis], reduced, *own[axis:])

        def rest(i: Sequence[Any]) -> Sequence[Any]:
            return (*i[:axis], *i[axis + 1 :]) if len(shape) > 1 else (0,)

        m, s = te.reduce_axis((0, shape[axis])), te.reduce_axis((0, shape[axis]))
        largest = te.compute(kept, lambda *i: te.max(x(*along(m, i)), axis=[m]), "largest")
        e = te.compute(shape, lambda *i: tirx.exp(x(*i) - largest(*rest(i))), "exponential")
        total = te.compute(kept, lambda *i: te.sum(e(*along(s, i)), axis=[s]), "total")
        return [te.compute(shape, lambda *i: e(*i) / total(*rest(i)), "softmax")]

    def flops(self, workload: Workload) -> int:
        """Five for each element: compare, subtract, exponentiate, add, divide."""
        return 5 * int(np.prod(workload.outputs[0].shape))

    def examples(self) -> Iterable[Workload]:
        """The last axis and others, several ranks, uneven extents, batches, one class."""
        cases: list[tuple[tuple[int, ...], int]] = [
            ((1, 10), 1),
            ((2, 37), 1),
            ((2, 4, 9, 9), 3),
            ((1, 6, 5, 4), 1),
            ((2, 5, 16), 1),
            ((8,), 0),
            ((3, 1), 1),
        ]
        for shape, axis in cases:
            yield self.workload(SoftmaxAttributes(axis), [TensorType(shape)])
