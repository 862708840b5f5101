"""Winograd's transforms A^T, G and B^T for any F(m, r), generated in exact rational arithmetic. Needs no TVM.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2015); the choice of points follows
Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution for DNNs (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import prod, sqrt

Matrix = tuple[tuple[Fraction, ...], ...]
"""A matrix as rows of fractions."""

POINTS = tuple(Fraction(p) for p in ("0", "1", "-1", "2", "-2", "1/2", "-1/2", "3/4"))
"""Finite interpolation points in order of use; infinity is always added. Opposite points share half of their work."""

MOST_POINTS = tuple(Fraction(p) for p in ("0", "1/2", "-1/2", "3/4", "-3/4", "5/4", "-5/4", "5/2", "-5/2"))
"""The points of the largest tile: of dyadic ones those with the least `amplification`."""

LARGEST_TILE = len(MOST_POINTS) + 1
"""The largest m + r - 1 for which there are points."""


@dataclass(frozen=True)
class WinogradMatrices:
    """The bilinear algorithm ``y = at @ ((g @ w) * (bt @ d))`` with ``y[i] = sum_j w[j] * d[i + j]``.

    Args:
        at: Output transform A^T, [m, m + r - 1].
        g: Weight transform G, [m + r - 1, r].
        bt: Input transform B^T, [m + r - 1, m + r - 1].
    """

    at: Matrix
    g: Matrix
    bt: Matrix


def _product_of_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients, lowest first, of the monic polynomial with these roots."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [*(-root * c for c in coefficients), Fraction(0)]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


@lru_cache
def winograd_matrices(m: int, r: int) -> WinogradMatrices:
    """The matrices of F(m, r): m outputs of an r-tap correlation by m + r - 1 multiplications.

    It is Toom and Cook's polynomial multiplication, transposed. The denominators of the interpolation go to G, which
    is applied ahead of time; rows of B^T are monic polynomials, columns of A^T are integers.

    Raises:
        ValueError: m or r is not positive, or the tile is larger than `LARGEST_TILE`.
    """
    tile = m + r - 1
    if m < 1 or r < 1 or tile > LARGEST_TILE:
        raise ValueError(f"F({m}, {r}) needs m, r >= 1 and m + r - 1 <= {LARGEST_TILE}")
    points = MOST_POINTS if tile == LARGEST_TILE else POINTS[: tile - 1]
    at_columns, g, bt = [], [], []
    for i, p in enumerate(points):
        others = points[:i] + points[i + 1 :]
        scale = Fraction(p.denominator) ** (m - 1)
        normaliser = prod((p - q for q in others), start=scale)
        at_columns.append([scale * p**power for power in range(m)])
        g.append(tuple(p**power / normaliser for power in range(r)))
        bt.append((*_product_of_roots(others), Fraction(0)))
    at_columns.append([Fraction(power == m - 1) for power in range(m)])
    g.append(tuple(Fraction(power == r - 1) for power in range(r)))
    bt.append(tuple(_product_of_roots(points)))
    return WinogradMatrices(tuple(zip(*at_columns, strict=True)), tuple(g), tuple(bt))


@lru_cache
def amplification(m: int, r: int) -> float:
    """How much larger than in direct summation F(m, r) makes rounding errors, for independent data and weights.

    Every product is rounded relative to its size, and enters the outputs with the factors of A^T. That of two
    dimensions is the product of both.
    """
    matrices = winograd_matrices(m, r)
    squares = [[float(sum(e * e for e in row)) for row in matrix] for matrix in (matrices.g, matrices.bt)]
    products = [a * b for a, b in zip(*squares, strict=True)]
    variances = (sum(float(a * a) * v for a, v in zip(row, products, strict=True)) for row in matrices.at)
    return sqrt(max(variances) / r)
