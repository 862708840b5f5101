"""Another order of the axes."""

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
class TransposeAttributes:
    """Attributes of a transpose.

    Args:
        axes: For each output axis the input axis.
    """

    axes: tuple[int, ...]


class Transpose(LayerKind):
    """``y = x.transpose(axes)``; any rank, any element type."""

    name = "transpose"
    Attributes = TransposeAttributes
    relax_operators = ("relax.permute_dims",)

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """Recognises any permutation of an activation."""
        if operands[0].value is not None:
            return None
        rank = operands[0].type.rank
        axes = reversed(range(rank)) if attrs.axes is None else (normalise_axis(axis, rank) for axis in attrs.axes)
        return Recognised(TransposeAttributes(tuple(axes)), (0,), {})

    def output_types(
        self, attributes: TransposeAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """The input's extents in the new order."""
        return (TensorType(tuple(inputs[0].shape[axis] for axis in attributes.axes), inputs[0].dtype),)

    def reference(
        self, attributes: TransposeAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """As numpy does it."""
        return (inputs[0].transpose(attributes.axes),)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """The definition of TVM's operator library."""
        from tvm import topi

        return [topi.transpose(inputs[0], workload.attributes.axes)]

    def examples(self) -> Iterable[Workload]:
        """Matrix transposes, layout changes, attention heads, ranks 2 to 5, another element type."""
        cases: list[tuple[tuple[int, ...], tuple[int, ...], str]] = [
            ((5, 9), (1, 0), "float32"),
            ((2, 7, 16), (0, 2, 1), "float32"),
            ((1, 20, 4, 6), (0, 2, 3, 1), "float32"),
            ((2, 5, 3, 8), (0, 2, 1, 3), "float32"),
            ((2, 2, 12, 3, 5), (0, 2, 1, 3, 4), "float32"),
            ((3, 4), (1, 0), "int64"),
        ]
        for shape, axes, dtype in cases:
            yield self.workload(TransposeAttributes(axes), [TensorType(shape, dtype)])
