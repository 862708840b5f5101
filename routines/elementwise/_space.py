"""The loops of an elementwise kernel: axes that every operand walks alike are one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from softneuro_tvm.formats import canonical_layout, parse_layout, physical_shape


@dataclass(frozen=True)
class Axis:
    """One loop: its extent, and the distance in elements between neighbours in each operand (0 where it broadcasts)."""

    extent: int
    strides: tuple[int, ...]


def _strides(shape: tuple[int, ...], target: tuple[int, ...], layout: str) -> list[int]:
    """Strides of an operand along the physical axes of the shape that it broadcasts to, which has the same layout."""
    canonical, physical = canonical_layout(len(target)), physical_shape(shape, layout)
    logical = dict(zip(canonical, zip(shape, target, strict=True), strict=True))
    strides = []
    for position, (axis, _) in enumerate(parse_layout(layout)):
        own, wanted = logical[axis]
        strides.append(0 if own != wanted else math.prod(physical[position + 1 :]))
    return strides


def iteration_space(shapes: Sequence[tuple[int, ...]], target: tuple[int, ...], layout: str) -> list[Axis]:
    """The fewest axes that cover the target, outermost first; the innermost has strides 0 and 1 only.

    Args:
        shapes: Logical shapes of the operands, of the target's rank.
        target: Logical shape that they broadcast to.
        layout: Of operands and target.
    """
    columns = [_strides(shape, target, layout) for shape in shapes]
    axes: list[Axis] = []
    for position, extent in enumerate(physical_shape(target, layout)):
        axis = Axis(extent, tuple(column[position] for column in columns))
        if extent == 1:
            continue
        if axes and axes[-1].strides == tuple(stride * extent for stride in axis.strides):
            axes[-1] = Axis(axes[-1].extent * extent, axis.strides)
        else:
            axes.append(axis)
    return axes or [Axis(1, (1,) * len(shapes))]
