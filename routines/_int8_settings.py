"""Parameter settings of the 8-bit products that are worth measuring."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from softneuro_tvm.device import Device
from softneuro_tvm.routine import Parameter

from ._int8_product import groups_of
from ._int8_sources import Problem
from ._tir import ceil_div, round_up

SMALL = 4_000_000
"""Multiply-adds below which a parallel launch costs a good part of what it saves."""

SMALL_MAP = 400
"""Positions up to which threads share output channels first: each then reads a part of the weights."""

FEW_ROWS = 4
"""Up to so many positions weights, each read once, take the time: wide tiles read them from one place."""


def parameters(problem: Problem, device: Device) -> Iterator[tuple[tuple[str, Parameter], ...]]:
    """Tile shapes, most promising first, and with threads what they share."""
    dot, bands = problem.dot, next(n for n in range(1, problem.lines + 1) if _fits(problem, n, device))
    for vectors in _vectors(problem, device):
        groups = groups_of(problem, vectors)
        most = sum(count for count, _ in groups)
        grains = [(n, parts) for n, parts in _grains(problem, bands, device.threads) if parts <= most]
        for number, parts in grains or [(bands, 1)]:
            yield (
                ("dot", dot.name),
                ("lanes", dot.lanes),
                ("vectors", groups[0][1]),
                ("copy", not problem.reads_in_place),
                ("bands", number),
                ("parts", parts),
            )


def _grains(problem: Problem, bands: int, threads: int) -> list[tuple[int, int]]:
    """Numbers of bands and of parts of the output channels to share among threads, most promising first."""
    g = problem.g
    if threads == 1:
        return [(bands, 1)]
    rows = min(problem.lines, round_up(bands, threads))
    by_rows = [(rows, 1)] if rows > 1 or g.n > 1 else []
    by_channels = [(bands, threads)] if g.n % threads else []
    is_small = g.n * g.oh * g.ow * g.k * g.c * g.r * g.s < SMALL
    shared = by_channels + by_rows if g.oh * g.ow <= SMALL_MAP else by_rows + by_channels
    return shared + ([(1, 1)] if is_small else [])


def _vectors(problem: Problem, device: Device) -> tuple[int, ...]:
    """Vectors of output channels of a tile."""
    few = problem.lines <= FEW_ROWS
    if device.vector_registers >= 32:
        return (8, 4) if few else (4, 2)
    return (4, 2) if few else (2, 3)


def _fits(problem: Problem, bands: int, device: Device) -> bool:
    """True if the data of so many bands stay in the second-level cache."""
    height = ceil_div(problem.lines, bands)
    return height == 1 or 2 * prod(problem.copied_shape(height)) * problem.pitch <= device.l2_bytes // 2
