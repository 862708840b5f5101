"""Permutations of vector registers."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from ._tir import Expr, Kernel, ceil_div


def shuffle(vectors: Sequence[Expr], width: int, lanes: Sequence[int]) -> Expr:
    """The vector of the given lanes of the concatenated vectors of `width` lanes; it may be longer than they are."""
    repeats = ceil_div(len(lanes), len(vectors) * width)
    return Kernel.bind(tirx.Shuffle(list(vectors) * repeats, [tirx.IntImm("int32", lane) for lane in lanes]))


def transpose(rows: Sequence[Expr]) -> list[Expr]:
    """Transposes t vectors of t lanes (t a power of two) in registers, log2(t) rounds of t two-vector shuffles.

    Source: Eklundh, A Fast Computer Method for Matrix Transposing, IEEE Transactions on Computers 1972.
    """
    t, result, distance = len(rows), list(rows), 1
    while distance < t:
        low = [lane if lane & distance == 0 else t + lane - distance for lane in range(t)]
        high = [lane + distance if lane & distance == 0 else t + lane for lane in range(t)]
        for i in range(t):
            if i & distance == 0:
                pair = result[i], result[i + distance]
                result[i], result[i + distance] = shuffle(pair, t, low), shuffle(pair, t, high)
        distance *= 2
    return result
