"""Sum, mean, largest, smallest and product over some axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind, Operand, Recognised
from softneuro_tvm.layers._numpy import normalise_axes

_NUMPY: dict[str, Callable[..., Any]] = {
    "sum": np.sum,
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
}


@dataclass(frozen=True)
class ReductionAttributes:
    """Attributes of a reduction.

    Args:
        operation: What is computed.
        axes: The axes that are reduced, counted from the front, ascending.
        keepdims: True if reduced axes stay, with extent 1.
    """

    operation: Literal["sum", "mean", "max", "min", "prod"]
    axes: tuple[int, ...]
    keepdims: bool = False


class Reduction(LayerKind):
    """One value for each position along the axes that are not reduced; float32, any rank."""

    name = "reduction"
    Attributes = ReductionAttributes
    relax_operators = ("relax.sum", "relax.mean", "relax.max", "relax.min", "relax.prod")

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """Recognises float32 reductions; a mean or maximum that keeps a map's axes is a pooling."""
        data = operands[0]
        operation = operator.removeprefix("relax.")
        if data.value is not None or data.type.dtype != "float32" or data.type.rank == 0:
            return None
        axes = normalise_axes(attrs.axis, data.type.rank)
        keepdims = bool(attrs.keepdims)
        if not axes or (operation in ("mean", "max") and (axes, keepdims, data.type.rank) == ((2, 3), True, 4)):
            return None
        return Recognised(ReductionAttributes(operation, axes, keepdims), (0,), {})  # type: ignore[arg-type]

    def output_types(
        self, attributes: ReductionAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """The input's shape without the reduced axes, or with 1 there."""
        shape = inputs[0].shape
        if attributes.keepdims:
            kept = tuple(1 if axis in attributes.axes else extent for axis, extent in enumerate(shape))
        else:
            kept = tuple(extent for axis, extent in enumerate(shape) if axis not in attributes.axes)
        return (TensorType(kept, inputs[0].dtype),)

    def reference(
        self, attributes: ReductionAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """As numpy does it."""
        y = _NUMPY[attributes.operation](inputs[0], axis=attributes.axes, keepdims=attributes.keepdims)
        return (np.asarray(y),)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """The reduction, and for a mean the scaling."""
        from tvm import te, topi

        attributes, shape = workload.attributes, workload.outputs[0].shape
        axes, keepdims = list(attributes.axes), attributes.keepdims
        if attributes.operation != "mean":
            return [getattr(topi, attributes.operation)(inputs[0], axes, keepdims)]
        total = topi.sum(inputs[0], axes, keepdims)
        count = math.prod(workload.inputs[0].shape[axis] for axis in axes)
        return [te.compute(shape, lambda *i: total(*i) * (1.0 / count), "mean")]

    def flops(self, workload: Workload) -> int:
        """One for each element read."""
        return int(np.prod(workload.inputs[0].shape))

    def examples(self) -> Iterable[Workload]:
        """Every operation, inner and outer axes, all axes, several ranks."""
        cases: list[tuple[tuple[int, ...], ReductionAttributes]] = [
            ((1, 20, 7, 7), ReductionAttributes("mean", (2, 3))),
            ((2, 16, 5, 5), ReductionAttributes("sum", (1,), True)),
            ((2, 9, 24), ReductionAttributes("mean", (2,), True)),
            ((2, 9, 24), ReductionAttributes("mean", (1,))),
            ((3, 17), ReductionAttributes("max", (1,))),
            ((2, 5, 4, 3), ReductionAttributes("min", (0, 2))),
            ((2, 6), ReductionAttributes("prod", (1,))),
            ((2, 3, 4), ReductionAttributes("sum", (0, 1, 2))),
        ]
        for shape, attributes in cases:
            yield self.workload(attributes, [TensorType(shape)])
