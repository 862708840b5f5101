"""A regular part of a tensor: begin, end and step along every axis. A split is several slices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from softneuro_tvm.formats import TensorType, block_of, canonical_layout, parse_layout, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind, Operand, Recognised
from softneuro_tvm.layers._numpy import normalise_axis


@dataclass(frozen=True)
class SliceAttributes:
    """Attributes of a slice, one entry for each axis.

    Args:
        begin: First position, not negative.
        end: Position after the last, not before `begin`, at most the extent.
        strides: Steps, 1 or more.
    """

    begin: tuple[int, ...]
    end: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def index(self) -> tuple[slice, ...]:
        """What to write between brackets in numpy."""
        return tuple(slice(*bounds) for bounds in zip(self.begin, self.end, self.strides, strict=True))


@dataclass(frozen=True)
class InPlaceSliceAttributes(SliceAttributes):
    """Attributes of a slice that may lie where its input does.

    Args:
        in_place: Tells its workloads from others.
    """

    in_place: bool = True


def slice_offset(source: TensorType, attributes: SliceAttributes, layout: str) -> int | None:
    """Bytes from the beginning of a tensor to a slice of it; None if the slice is not one run of memory.

    Args:
        source: What is sliced.
        attributes: Where.
        layout: Of the tensor and of the slice.
    """
    extents, canonical = physical_shape(source.shape, layout), canonical_layout(source.rank)
    offset, has_several = 0, False
    for position, ((name, block), extent) in enumerate(zip(parse_layout(layout), extents, strict=True)):
        part, size = attributes.index[canonical.index(name)], block_of(layout, name)
        begin, count = 0, extent
        if not block:
            elements = len(range(part.start, part.stop, part.step))
            if part.start % size or (part.step > 1 and elements > 1):
                return None
            begin, count = part.start // size, -(-elements // size)
        if has_several and count < extent:
            return None  # an axis outside has several positions, with gaps between them
        has_several = has_several or count > 1
        offset += begin * prod(extents[position + 1 :])
    return offset * np.dtype(source.dtype).itemsize


class Slice(LayerKind):
    """``y = x[begin:end:strides]``; any rank, any element type."""

    name = "slice"
    Attributes = SliceAttributes
    relax_operators = ("relax.strided_slice",)

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """Recognises slices with positive steps that are not empty; bounds are clipped as numpy does."""
        data, axes, begin, end = operands[:4]
        if data.value is not None or axes.value is None or begin.value is None or end.value is None:
            return None
        steps = operands[4].value if len(operands) > 4 else np.ones(axes.value.size, np.int64)
        if steps is None or steps.min(initial=1) < 1:
            return None
        parts = [slice(0, extent, 1) for extent in data.type.shape]
        for axis, *bounds in zip(axes.value.flat, begin.value.flat, end.value.flat, steps.flat, strict=True):
            position = normalise_axis(int(axis), data.type.rank)
            parts[position] = slice(*slice(*map(int, bounds)).indices(data.type.shape[position]))
        if any(part.stop <= part.start for part in parts):
            return None
        attributes = SliceAttributes(
            tuple(part.start for part in parts), tuple(part.stop for part in parts), tuple(part.step for part in parts)
        )
        return Recognised(attributes, (0,), {})

    def output_types(
        self, attributes: SliceAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """The number of positions along each axis."""
        shape = tuple(len(range(part.start, part.stop, part.step)) for part in attributes.index)
        return (TensorType(shape, inputs[0].dtype),)

    def reference(
        self, attributes: SliceAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """As numpy does it."""
        return (inputs[0][attributes.index],)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """One element for each element."""
        from tvm import te

        begin, strides = workload.attributes.begin, workload.attributes.strides

        def element(*i: Any) -> Any:
            return inputs[0](*(b + index * step for b, index, step in zip(begin, i, strides, strict=True)))

        return [te.compute(workload.outputs[0].shape, element, "slice")]

    def examples(self) -> Iterable[Workload]:
        """Channel ranges aligned and not, other axes, steps, other ranks and element types."""
        cases: list[tuple[tuple[int, ...], tuple[slice, ...], str]] = [
            ((1, 32, 5, 7), (slice(0, 1), slice(16, 32), slice(0, 5), slice(0, 7)), "float32"),
            ((2, 20, 4, 4), (slice(0, 2), slice(3, 17), slice(0, 4), slice(0, 4)), "float32"),
            ((1, 16, 9, 9), (slice(0, 1), slice(0, 16), slice(1, 9, 2), slice(0, 8, 3)), "float32"),
            ((2, 12), (slice(1, 2), slice(0, 12, 4)), "float32"),
            ((1, 5, 6), (slice(0, 1), slice(0, 5), slice(5, 6)), "float32"),
            ((7,), (slice(2, 6),), "int64"),
        ]
        for shape, parts, dtype in cases:
            begin, end = tuple(part.start for part in parts), tuple(part.stop for part in parts)
            attributes = SliceAttributes(begin, end, tuple(part.step or 1 for part in parts))
            yield self.workload(attributes, [TensorType(shape, dtype)])
        attributes = InPlaceSliceAttributes((0, 32, 0, 0), (1, 52, 4, 6), (1, 1, 1, 1))
        yield self.workload(attributes, [TensorType((1, 64, 4, 6))])
