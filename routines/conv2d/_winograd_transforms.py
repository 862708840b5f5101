"""Code for small constant matrices times vectors of SIMD registers, with the work that opposite points share."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from .._tir import Expr, Kernel
from ._winograd_matrices import Matrix


def _halves(p: Sequence[Fraction], q: Sequence[Fraction]) -> tuple[list[Fraction], list[Fraction]] | None:
    """Even and odd part e, o with p = e + o and q = e - o, if each term is needed in one of them only."""
    even = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    odd = [(a - b) / 2 for a, b in zip(p, q, strict=True)]
    shared = any(even) and any(odd) and not any(e * o for e, o in zip(even, odd, strict=True))
    return (even, odd) if shared else None


def _linear_form(k: Kernel, row: Sequence[Fraction], values: Sequence[Expr], lanes: int) -> Expr:
    """The sum of ``row[j] * values[j]``; starts with a term that needs no multiplication if there is one."""
    terms = sorted(((c, v) for c, v in zip(row, values, strict=True) if c), key=lambda term: term[0] != 1)
    if not terms:
        return k.splat(0.0, lanes)
    factor, total = terms[0]
    if factor != 1:
        total = total * k.splat(float(factor), lanes)
    for factor, value in terms[1:]:
        total = _add_scaled(k, total, factor, value, lanes)
    return k.bind(total)


def _add_scaled(k: Kernel, total: Expr, factor: Fraction, value: Expr, lanes: int) -> Expr:
    """``total + factor * value``."""
    if abs(factor) == 1:
        return total + value if factor == 1 else total - value
    return total + value * k.splat(float(factor), lanes)


def apply_matrix(k: Kernel, matrix: Matrix, values: Sequence[Expr | None], lanes: int) -> list[Expr]:
    """``matrix @ values``, where each value is a vector of `lanes` elements and None stands for zeros.

    Neighbouring columns of opposite points (A^T) are replaced by sum and difference of their values; neighbouring rows
    of opposite points (B^T) are computed as sum and difference of an even and an odd part.
    """
    inputs: list[Expr] = [value for value in values if value is not None]
    if not inputs:
        return [k.splat(0.0, lanes) for _ in matrix]
    columns = [[row[j] for row in matrix] for j, value in enumerate(values) if value is not None]
    j = 0
    while j + 1 < len(columns):
        if halves := _halves(columns[j], columns[j + 1]):
            columns[j : j + 2] = halves
            total, difference = inputs[j] + inputs[j + 1], inputs[j] - inputs[j + 1]
            inputs[j : j + 2] = k.bind(total), k.bind(difference)
            j += 1
        j += 1
    rows = list(zip(*columns, strict=True))
    results: list[Expr] = []
    while len(results) < len(rows):
        i = len(results)
        halves = _halves(rows[i], rows[i + 1]) if i + 1 < len(rows) else None
        if halves is None:
            results.append(_linear_form(k, rows[i], inputs, lanes))
            continue
        scale = next(c for c in reversed(halves[1]) if c)
        even = _linear_form(k, halves[0], inputs, lanes)
        odd = _linear_form(k, [c / scale for c in halves[1]], inputs, lanes)
        results += [k.bind(_add_scaled(k, even, sign * scale, odd, lanes)) for sign in (1, -1)]
    return results
