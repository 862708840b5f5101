"""Another shape for the same elements in the same (row-major) order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind, Operand, Recognised
from softneuro_tvm.layers._numpy import normalise_axes


@dataclass(frozen=True)
class ReshapeAttributes:
    """Attributes of a reshape.

    Args:
        shape: Of the output, without placeholders.
    """

    shape: tuple[int, ...]


class Reshape(LayerKind):
    """``y = x.reshape(shape)``; any rank, any element type."""

    name = "reshape"
    Attributes = ReshapeAttributes
    relax_operators = (
        "relax.reshape",
        "relax.flatten",
        "relax.nn.batch_flatten",
        "relax.expand_dims",
        "relax.squeeze",
    )

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """Recognises reshapes to a constant shape, and operators that only add, drop or join axes."""
        shape = operands[0].type.shape
        if operands[0].value is not None:
            return None
        if operator == "relax.reshape":
            if operands[1].value is None:
                return None
            wanted = tuple(int(n) for n in operands[1].value.flat)
        elif operator == "relax.flatten":
            wanted = (math.prod(shape),)
        elif operator == "relax.nn.batch_flatten":
            wanted = (shape[0], math.prod(shape[1:]))
        elif operator == "relax.expand_dims":
            added = normalise_axes(attrs.axis, len(shape) + len(attrs.axis))
            rest = iter(shape)
            wanted = tuple(1 if axis in added else next(rest) for axis in range(len(shape) + len(added)))
        else:
            ones = [axis for axis, extent in enumerate(shape) if extent == 1]
            dropped = ones if attrs.axis is None else normalise_axes(attrs.axis, len(shape))
            wanted = tuple(extent for axis, extent in enumerate(shape) if axis not in dropped)
        return Recognised(ReshapeAttributes(wanted), (0,), {}) if math.prod(wanted) == math.prod(shape) else None

    def output_types(
        self, attributes: ReshapeAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """The shape of the attributes."""
        return (TensorType(attributes.shape, inputs[0].dtype),)

    def reference(
        self, attributes: ReshapeAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """As numpy does it."""
        return (inputs[0].reshape(attributes.shape),)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """The definition of TVM's operator library."""
        from tvm import topi

        return [topi.reshape(inputs[0], workload.attributes.shape)]

    def examples(self) -> Iterable[Workload]:
        """Flattening, splitting an axis, ranks 0 to 5, another element type."""
        cases: list[tuple[tuple[int, ...], tuple[int, ...], str]] = [
            ((1, 20, 3, 3), (1, 180), "float32"),
            ((2, 32, 1, 1), (2, 32), "float32"),
            ((2, 24), (2, 24, 1, 1), "float32"),
            ((2, 24, 3, 5), (2, 2, 12, 3, 5), "float32"),
            ((1, 6, 8), (6, 2, 4), "float32"),
            ((1, 1), (), "float32"),
            ((2, 6), (12,), "int64"),
        ]
        for shape, wanted, dtype in cases:
            yield self.workload(ReshapeAttributes(wanted), [TensorType(shape, dtype)])
