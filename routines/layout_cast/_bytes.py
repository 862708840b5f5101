"""Transposition of bytes in vector registers."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.tirx.script.builder import ir as T

from .._tir import Expr, Kernel
from .._vectors import shuffle


def transpose_bytes(rows: Sequence[Expr], dtype: str) -> list[Expr]:
    """Transposes t vectors of t bytes (t a power of two): log2(t) rounds that interleave row i with row i + t / 2.

    Each shuffle takes the lower or the upper halves of two vectors by turns, which is one instruction (`punpcklbw`,
    `zip1`) on any machine.

    Args:
        rows: The vectors; binds them, as all are used twice.
        dtype: Type of the elements.
    """
    t, result = len(rows), list(rows)
    half = t // 2
    halves = [[lane // 2 + begin + lane % 2 * t for lane in range(t)] for begin in (0, half)]
    for _ in range(t.bit_length() - 1):
        pinned = [_pin(row, dtype, t) for row in result]
        result = [shuffle((pinned[i // 2], pinned[i // 2 + half]), t, halves[i % 2]) for i in range(t)]
    return result


def _pin(value: Expr, dtype: str, lanes: int) -> Expr:
    """Computes a vector once; see `Kernel.pin`."""
    register = Kernel.scratch(lanes, dtype)
    Kernel.store(register, 0, value, lanes)
    return T.Bind(Kernel.load(register, 0, lanes))
