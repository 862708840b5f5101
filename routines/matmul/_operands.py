"""Matrices inside tensors: strides of batch, row and column for any order of the axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from softneuro_tvm.formats import canonical_layout

from .._tir import Expr


@dataclass(frozen=True)
class Operand:
    """A stack of matrices; element (b, i, j) lies at ``offset(b) + i * row + j * column``.

    Args:
        batch: Strides of the output's batch axes, 0 where this operand broadcasts.
        row: Elements from one row to the next.
        column: Elements from one column to the next.
    """

    batch: tuple[int, ...]
    row: int
    column: int

    @staticmethod
    def of(shape: tuple[int, ...], layout: str, is_transposed: bool, rank: int) -> Operand:
        """The matrices of the last two axes, in a layout without blocks; `rank` is the output's."""
        extents = dict(zip(canonical_layout(len(shape)), shape, strict=True))
        inner = {axis: prod(extents[later] for later in layout[i + 1 :]) for i, axis in enumerate(layout)}
        *batch, row, column = (inner[axis] for axis in canonical_layout(len(shape)))
        broadcast = [0 if extent == 1 else stride for extent, stride in zip(shape[:-2], batch, strict=True)]
        leading = (0,) * (rank - len(shape))
        return Operand((*leading, *broadcast), *((column, row) if is_transposed else (row, column)))

    def offset(self, index: Sequence[Expr]) -> Expr:
        """Where the matrix at an index of the output's batch axes begins."""
        total: Expr = 0
        for place, stride in zip(index, self.batch, strict=True):
            total = total + place * stride
        return total
