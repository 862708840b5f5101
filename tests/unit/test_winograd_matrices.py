from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from softneuro_tvm.routines.conv2d._winograd_matrices import LARGEST_TILE, Matrix, amplification, winograd_matrices

SIZES = [(m, r) for m in range(1, LARGEST_TILE + 1) for r in range(1, LARGEST_TILE + 2 - m)]


def apply(matrix: Matrix, vector: list[Fraction]) -> list[Fraction]:
    return [sum((a * b for a, b in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]


def winograd(m: int, r: int, weights: list[Fraction], data: list[Fraction]) -> list[Fraction]:
    matrices = winograd_matrices(m, r)
    products = [a * b for a, b in zip(apply(matrices.g, weights), apply(matrices.bt, data), strict=True)]
    return apply(matrices.at, products)


def unit(length: int, position: int) -> list[Fraction]:
    return [Fraction(i == position) for i in range(length)]


def largest(matrix: Matrix) -> Fraction:
    return max((abs(entry) for row in matrix for entry in row), default=Fraction(0))


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_every_pair_of_unit_vectors_correlates_exactly(m: int, r: int) -> None:
    # the algorithm is bilinear: being right on a basis, it is right everywhere
    for tap in range(r):
        for position in range(m + r - 1):
            expected = [Fraction(i + tap == position) for i in range(m)]
            assert winograd(m, r, unit(r, tap), unit(m + r - 1, position)) == expected


@given(st.sampled_from(SIZES), st.data())
def test_random_integers_correlate_exactly(size: tuple[int, int], draw: st.DataObject) -> None:
    m, r = size
    integers = st.integers(-100, 100).map(Fraction)
    weights = draw.draw(st.lists(integers, min_size=r, max_size=r))
    data = draw.draw(st.lists(integers, min_size=m + r - 1, max_size=m + r - 1))
    expected = [sum(weights[j] * data[i + j] for j in range(r)) for i in range(m)]
    assert winograd(m, r, weights, data) == expected


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_shapes(m: int, r: int) -> None:
    matrices, tile = winograd_matrices(m, r), m + r - 1
    shapes = [(len(matrix), {len(row) for row in matrix}) for matrix in (matrices.at, matrices.g, matrices.bt)]
    assert shapes == [(m, {tile}), (tile, {r}), (tile, {tile})]


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_entries_are_exact_in_float32_and_cheap(m: int, r: int) -> None:
    matrices = winograd_matrices(m, r)
    assert all(entry.denominator == 1 for row in matrices.at for entry in row)
    # rows of B^T are monic: their highest term needs no multiplication
    assert all(next(entry for entry in reversed(row) if entry) == 1 for row in matrices.bt)
    for row in (*matrices.at, *matrices.bt):
        for entry in row:
            assert entry.denominator & (entry.denominator - 1) == 0 and abs(entry.numerator) < 1 << 24


@pytest.mark.parametrize(("m", "at", "bt"), [(2, 1, 1), (4, 8, 5), (6, 32, Fraction(21, 4))])
def test_magnitudes_for_kernels_of_three(m: int, at: int, bt: Fraction) -> None:
    matrices = winograd_matrices(m, 3)
    assert largest(matrices.at) == at and largest(matrices.bt) == bt
    assert largest(matrices.g) <= 1


@pytest.mark.parametrize("m", [2, 4, 6])
def test_opposite_points_share_even_and_odd_parts(m: int) -> None:
    matrices = winograd_matrices(m, 3)
    for i in range(1, m, 2):
        for power, row in enumerate(matrices.at):
            assert row[i + 1] == row[i] * (-1) ** power
        pairs = list(zip(matrices.bt[i], matrices.bt[i + 1], strict=True))
        assert all(a == b or a == -b for a, b in pairs)
        assert any(a == b != 0 for a, b in pairs) and any(a == -b != 0 for a, b in pairs)


@pytest.mark.parametrize(("m", "r"), [(0, 3), (3, 0), (LARGEST_TILE, 2)])
def test_sizes_without_points_are_refused(m: int, r: int) -> None:
    with pytest.raises(ValueError, match="m \\+ r - 1"):
        winograd_matrices(m, r)


@pytest.mark.parametrize(("m", "r"), [(m, r) for m, r in SIZES if r in (3, 5, 7)])
def test_amplification_is_that_of_emulated_rounding(m: int, r: int) -> None:
    """Products with independent relative errors, transformed, against a direct sum of products with such errors."""
    matrices, trials = winograd_matrices(m, r), 20_000
    random = np.random.default_rng(m * 10 + r)
    at, g, bt = (np.array(matrix, np.float64) for matrix in (matrices.at, matrices.g, matrices.bt))
    data, weights, rounding = (random.standard_normal((trials, size)) for size in (m + r - 1, r, m + r - 1))
    errors = (rounding * (weights @ g.T) * (data @ bt.T)) @ at.T
    assert np.sqrt((errors**2).mean(0).max() / r) == pytest.approx(amplification(m, r), rel=0.05)


def test_one_output_of_one_tap_is_a_product() -> None:
    assert winograd(1, 1, [Fraction(3)], [Fraction(5)]) == [Fraction(15)]
    assert amplification(1, 1) == 1
