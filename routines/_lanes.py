"""The left side of register tiles: scalars that are broadcast from memory, or lanes of vectors that are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ._tir import Expr, Kernel, ceil_div, element
from ._vectors import shuffle

SCALARS = 4
"""Steps of a row that are loaded together. With more, LLVM moves loads upwards until accumulators spill."""


def rows_together(lanes: int, registers: int, row: int = 0, step: int = 1) -> int:
    """Rows of a register tile whose scalars come with one load; 0 if each scalar is broadcast from memory.

    With short vectors and many registers a tile multiplies by lanes of registers: NEON does that for free, but cannot
    multiply by an element in memory as AVX can, and single scalars take as many registers as vectors of them.

    Args:
        lanes: Elements of a vector.
        registers: Vector registers.
        row: Elements from the scalar of a row to that of the next, if known.
        step: Elements from the scalar of a step of the reduction to that of the next; if 1, a vector holds steps.
    """
    if lanes != (4 if element() == "float32" else 8) or registers < 32:
        return 0
    # scalars that are neither adjacent in steps nor in rows: LLVM loads them in pairs
    return 1 if step == 1 else lanes if row == 1 else 2


def tallest_tile(vectors: int, registers: int, together: int) -> int:
    """Rows of a register tile that leaves registers for what is loaded in a step.

    Args:
        vectors: Vectors of a row; so many are loaded.
        registers: Vector registers.
        together: Rows for each load of scalars, as `rows_together` tells. Three more registers let LLVM load ahead;
            scalars that are broadcast from memory take one.
    """
    if not together:
        return max(1, (registers - vectors - 1) // vectors)
    free = registers - vectors - 3
    return next((n for n in range(free, 1, -1) if n * vectors + ceil_div(n, together) <= free), 1)


@dataclass(frozen=True)
class Rows:
    """The left side of a product: element c of row i is ``buffer[starts[i] + c * stride]``.

    Args:
        buffer: Where it lies.
        starts: First element of each row.
        stride: Elements from one step of the reduction to the next.
        together: What one load brings, as `rows_together` tells: steps of a row, elements of neighbouring rows, or one.
    """

    buffer: Any
    starts: Sequence[Expr]
    stride: int
    together: int

    def broadcast(self, i: int, u: int, steps: int, lanes: int) -> Expr:
        """Element u, of the `steps` that exist, of row i in all lanes of a vector."""
        if self.together == 1 and steps % SCALARS == 0:
            vector = Kernel.load(self.buffer, self.starts[i] + u // SCALARS * SCALARS, SCALARS)
            return shuffle([vector], SCALARS, [u % SCALARS] * lanes)
        if self.together == lanes:
            first = i - i % lanes
            if first + lanes <= len(self.starts):  # the last rows are read one by one
                vector = Kernel.load(self.buffer, self.starts[first] + u * self.stride, lanes)
                return shuffle([vector], lanes, [i % lanes] * lanes)
        return Kernel.splat(self.buffer[self.starts[i] + u * self.stride], lanes)
