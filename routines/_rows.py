"""Passes over rows of consecutive elements, vector by vector, and their reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.tirx.script.builder import ir as T

from ._tir import Expr, Kernel
from ._vectors import shuffle

ACCUMULATORS = 4
"""Independent partial results, which hide the latency of an operation."""

Combine = Callable[[Any, Any], Any]
"""An associative operation on two vectors, or on two scalars."""

LOWEST = -3.4028234663852886e38
"""The most negative float32."""


def add(a: Expr, b: Expr) -> Expr:
    """Sum."""
    return a + b


def _horizontal(k: Kernel, combine: Combine, value: Expr, lanes: int) -> Expr:
    """Combines the lanes of a vector, halves at a time."""
    while lanes > 1:
        lanes //= 2
        halves = [shuffle([value], 2 * lanes, range(i * lanes, (i + 1) * lanes)) for i in range(2)]
        value = k.bind(combine(halves[0], halves[1]))
    return value


def pieces(length: int, lanes: int) -> list[tuple[int, int]]:
    """Cuts fewer elements than a vector has into vectors of powers of two: (offset, lanes)."""
    found, done = [], 0
    while done < length:
        size = 1 << (min(lanes, length - done).bit_length() - 1)
        found.append((done, size))
        done += size
    return found


def sweep(k: Kernel, length: int, lanes: int, body: Callable[[Expr, int], None]) -> None:
    """Calls `body(offset, lanes)` for vectors that cover a row; the last one overlaps the one before."""
    if length < lanes:
        for offset, size in pieces(length, lanes):
            body(offset, size)
        return
    if length == lanes:
        body(0, lanes)
        return
    with k.loop(length // lanes) as i:
        body(i * lanes, lanes)
    if length % lanes:
        body(length - lanes, lanes)


def fold(
    k: Kernel, length: int, lanes: int, identity: float, combine: Combine, value: Callable[[Expr, int], Expr]
) -> Expr:
    """Reduces a row to a scalar.

    Args:
        k: Where to.
        length: Of the row.
        lanes: Of a vector.
        identity: Neutral element of `combine`.
        combine: The operation.
        value: Gives the vector of so many lanes at an offset; it may be called twice for the same element.
    """
    if length < lanes:
        parts = [_horizontal(k, combine, k.bind(value(offset, size)), size) for offset, size in pieces(length, lanes)]
        total = parts[0]
        for part in parts[1:]:
            total = k.bind(combine(total, part))
        return total
    number = min(ACCUMULATORS, length // lanes)
    partial = [k.scratch(lanes) for _ in range(number)]
    for buffer in partial:
        k.store(buffer, 0, k.splat(identity, lanes), lanes)

    def accumulate(buffer: Any, vector: Expr) -> None:
        k.store(buffer, 0, combine(k.load(buffer, 0, lanes), vector), lanes)

    with k.loop(length // (number * lanes)) as group:
        for i, buffer in enumerate(partial):
            accumulate(buffer, k.bind(value(group * (number * lanes) + i * lanes, lanes)))
    for i in range(length // lanes % number):
        accumulate(partial[i], k.bind(value((length // lanes - length // lanes % number + i) * lanes, lanes)))
    if length % lanes:
        repeated = lanes - length % lanes
        is_new = T.ramp(T.int32(0), 1, lanes) >= T.broadcast(T.int32(repeated), lanes)
        accumulate(partial[-1], T.Select(is_new, k.bind(value(length - lanes, lanes)), k.splat(identity, lanes)))
    total = k.load(partial[0], 0, lanes)
    for buffer in partial[1:]:
        total = k.bind(combine(total, k.load(buffer, 0, lanes)))
    return _horizontal(k, combine, k.bind(total), lanes)
