"""Concatenation along one axis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from softneuro_tvm.formats import (
    Format,
    TensorType,
    block_of,
    canonical_layout,
    parse_layout,
    physical_bytes,
    physical_shape,
)
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind, Operand, Recognised
from softneuro_tvm.layers._numpy import normalise_axis


@dataclass(frozen=True)
class ConcatAttributes:
    """Attributes of a concatenation.

    Args:
        axis: Counted from the front.
    """

    axis: int


@dataclass(frozen=True)
class InPlaceConcatAttributes(ConcatAttributes):
    """Attributes of a concatenation whose inputs may be written where its output lies.

    Args:
        in_place: Tells its workloads from others.
    """

    in_place: bool = True


def part_offsets(inputs: Sequence[TensorType], axis: int, layout: str) -> tuple[int, ...] | None:
    """Bytes from the beginning of a concatenation to each part; None if the parts are not whole runs of its memory.

    Args:
        inputs: The parts.
        axis: Along which they are joined.
        layout: Of the parts and of the whole.
    """
    name = canonical_layout(inputs[0].rank)[axis]
    outside = physical_shape(inputs[0].shape, layout)[: parse_layout(layout).index((name, 0))]
    if prod(outside) != 1 or any(part.shape[axis] % block_of(layout, name) for part in inputs[:-1]):
        return None
    sizes = [physical_bytes(part, Format(layout, part.dtype)) for part in inputs]
    return tuple(accumulate(sizes[:-1], initial=0))


class Concat(LayerKind):
    """The inputs one after the other along an axis; any rank, any element type."""

    name = "concat"
    Attributes = ConcatAttributes
    relax_operators = ("relax.concat",)

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """Recognises concatenations of activations; one with a constant falls through."""
        if any(operand.value is not None for operand in operands):
            return None
        axis = normalise_axis(0 if attrs.axis is None else attrs.axis, operands[0].type.rank)
        return Recognised(ConcatAttributes(axis), tuple(range(len(operands))), {})

    def output_types(
        self, attributes: ConcatAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """The first input's shape with the extents along the axis added up."""
        shape = list(inputs[0].shape)
        shape[attributes.axis] = sum(tensor.shape[attributes.axis] for tensor in inputs)
        return (TensorType(tuple(shape), inputs[0].dtype),)

    def reference(
        self, attributes: ConcatAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """As numpy does it."""
        return (np.concatenate(list(inputs), axis=attributes.axis),)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """The definition of TVM's operator library."""
        from tvm import topi

        return [topi.concatenate(list(inputs), workload.attributes.axis)]

    def examples(self) -> Iterable[Workload]:
        """Two to four inputs, even and uneven channels, every axis, other ranks and element types."""
        cases: list[tuple[tuple[tuple[int, ...], ...], int, str]] = [
            (((1, 16, 5, 7), (1, 32, 5, 7)), 1, "float32"),
            (((2, 5, 4, 4), (2, 12, 4, 4), (2, 3, 4, 4)), 1, "float32"),
            (((1, 16, 3, 5), (1, 16, 2, 5)), 2, "float32"),
            (((1, 8, 3, 5), (1, 8, 3, 1), (1, 8, 3, 2), (1, 8, 3, 5)), 3, "float32"),
            (((1, 8, 3, 5), (2, 8, 3, 5)), 0, "float32"),
            (((2, 10), (2, 3)), 1, "float32"),
            (((1, 4, 6), (1, 4, 2)), 2, "float32"),
            (((3,), (4,)), 0, "int64"),
        ]
        for shapes, axis, dtype in cases:
            yield self.workload(ConcatAttributes(axis), [TensorType(shape, dtype) for shape in shapes])
        yield self.workload(InPlaceConcatAttributes(1), [TensorType((1, c, 4, 6)) for c in (32, 16, 20)])
