"""Strassen's algorithm for products with constant weights: blocks, sums of weights, and when it pays.

Rows of x are cut into g groups, and so are the channels read and written: g is 2 for one level, 4 for two. Every block
of the result is a sum of some of r products of sums of blocks; r is 7 or 49, where the plain product has 8 or 64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Parameter, Variant

from ._blocked import pack_channel_vectors
from ._products import Sizes
from ._tir import cache_line, ceil_div, round_up
from .dense._tiles import split_evenly

# rows: products 1 to 7 of Strassen's paper; columns: blocks 11, 12, 21, 22
LEFT = ((1, 0, 0, 1), (0, 0, 1, 1), (1, 0, 0, 0), (0, 0, 0, 1), (1, 1, 0, 0), (-1, 0, 1, 0), (0, 1, 0, -1))
RIGHT = ((1, 0, 0, 1), (1, 0, 0, 0), (0, 1, 0, -1), (-1, 0, 1, 0), (0, 0, 0, 1), (1, 1, 0, 0), (0, 0, 1, 1))
# rows: blocks of the result; columns: products
RESULT = ((1, 0, 0, 1, -1, 0, 1), (0, 0, 1, 0, 1, 0, 0), (0, 1, 0, 1, 0, 0, 0), (1, -1, 1, 0, 0, 1, 0))

LEVELS = (1, 2)
"""Levels that are tried; a third would need 343 products and sums of 64 blocks."""

ACCESS = 2.7
"""Time of loading or storing a vector of sums or products, in multiply-adds of a vector."""

TILE_LOSS = 1.03
"""What the products lose to starting and storing tiles, for each level: their reductions are shorter."""

MOST_ROWS = 64
"""Rows of a block: with so many, streaming the weights through the second-level cache costs little."""

FEWEST_ROWS = 24
"""If sums of fewer rows fill the cache, the reduction is cut into steps instead."""

SHORTEST = 64
"""Channels of a sum in one step: with fewer, adding up the products costs too much."""

MIN_GROUP = 8
"""Rows of a group: with fewer, streaming the weights, of which there are more than plainly, takes longer."""


def groups_of(levels: int) -> int:
    """Groups into which an axis is cut."""
    return int(2**levels)


def products_of(levels: int) -> int:
    """Number of products."""
    return int(7**levels)


def block_places(levels: int) -> list[tuple[int, int]]:
    """Row and column of every block, outer levels first: the order of columns of Kronecker powers of `LEFT`."""
    places = [(0, 0)]
    for _ in range(levels):
        places = [(2 * row + i, 2 * column + j) for row, column in places for i in (0, 1) for j in (0, 1)]
    return places


def error_bound(depth: int, levels: int) -> float:
    """That of a sum of `depth` products, doubled for each level.

    The error is relative to the largest element, not to each one. Source: Higham, Accuracy and Stability of Numerical
    Algorithms (2002), section 23.2.2; the growth by 12 for each level proved there is a worst case.
    """
    return float((4e-6 + 1e-8 * depth) * 2**levels)


def relative_time(sizes: Sizes, levels: int) -> float:
    """Estimated time, relative to the plain product: multiply-adds saved against sums and products moved.

    Source: Jiang et al., MNN: A Universal and Efficient Inference Engine (MLSys 2020), which recurses while what is
    saved exceeds what the sums cost.
    """
    g = groups_of(levels)
    more = products_of(levels) / g**2
    padding = ceil_div(sizes.rows, g) * g / sizes.rows
    return padding * (
        TILE_LOSS**levels * more / g + ACCESS * ((more + 1) / sizes.columns + (2 * more + 1) / sizes.depth)
    )


def worthwhile_levels(sizes: Sizes, device: Device) -> list[int]:
    """Numbers of levels that are estimated to be faster than the plain product, the fastest first."""
    found = {}
    for levels in LEVELS:
        g = groups_of(levels)
        fits = all(extent % (g * device.vector_lanes) == 0 for extent in (sizes.depth, sizes.columns))
        if fits and sizes.rows >= MIN_GROUP * g:
            found[levels] = relative_time(sizes, levels)
    return sorted((levels for levels, time in found.items() if time < 1), key=lambda levels: found[levels])


def settings(sizes: Sizes, device: Device) -> list[tuple[tuple[str, Parameter], ...]]:
    """Parameters worth measuring: two widths of tiles for the best number of levels, one for the other."""
    wide, narrow = (4, 3) if device.vector_registers >= 32 else (3, 2)
    levels = worthwhile_levels(sizes, device)
    return [_setting(sizes, device, n, v) for n, v in [(n, wide) for n in levels] + [(n, narrow) for n in levels[:1]]]


def _setting(sizes: Sizes, device: Device, levels: int, vectors: int) -> tuple[tuple[str, Parameter], ...]:
    """Blocks of rows whose sums, read in order, fill the second-level cache 2.5 times; tasks for all threads."""
    lanes, threads = device.vector_lanes, device.threads
    depth, group = sizes.depth // groups_of(levels), ceil_div(sizes.rows, groups_of(levels))
    panels = ceil_div(sizes.columns // groups_of(levels) // lanes, vectors)
    room = 5 * device.l2_bytes // (8 * products_of(levels))
    possible = [n for n in range(1, max(1, depth // SHORTEST) + 1) if depth % (n * lanes) == 0]
    enough = [n for n in possible if room * n // depth >= min(FEWEST_ROWS, group)]
    steps = (enough or possible[-1:])[0]
    blocks = ceil_div(group, max(MIN_GROUP, min(MOST_ROWS, room * steps // depth)))
    parts = 1
    if sizes.images % threads:
        if group >= 2 * MIN_GROUP * threads:
            blocks = round_up(blocks, threads)
        else:
            parts = min(threads, panels)
    return (
        ("levels", levels),
        ("lanes", lanes),
        ("vectors", vectors),
        ("rows", ceil_div(group, blocks)),
        ("steps", steps),
        ("parts", parts),
        ("threads", threads),
    )


@dataclass(frozen=True)
class Scratch:
    """Elements of the scratch memory of one task.

    Args:
        row: From one row of a sum to the next.
        sums: From one sum of activations to the next.
        found: From one product to the next.
    """

    row: int
    sums: int
    found: int

    @staticmethod
    def of(sizes: Sizes, variant: Variant) -> Scratch:
        """The scratch memory of a variant."""
        row = _spread(sizes.depth // groups_of(variant["levels"]) // int(variant["steps"]))
        rows, width = int(variant["rows"]), int(variant["vectors"]) * int(variant["lanes"])
        return Scratch(row, _spread(rows * row), _spread(rows * width))


def _spread(elements: int) -> int:
    """An odd number of cache lines: what lies powers of two apart shares cache sets."""
    lines = ceil_div(elements, cache_line())
    return (lines + 1 - lines % 2) * cache_line()


def workspace_bytes(sizes: Sizes, variant: Variant) -> int:
    """Sums and products of a block of rows, for each thread."""
    scratch = Scratch.of(sizes, variant)
    return 4 * int(variant["threads"]) * products_of(variant["levels"]) * (scratch.sums + scratch.found)


def sum_weights(weight: np.ndarray, levels: int) -> np.ndarray:
    """The right sides of all products: float32 [products, C / g, K / g], added in float64, of weight [K, C]."""
    g, right = groups_of(levels), weight.T.astype("float64")
    depth, columns = right.shape[0] // g, right.shape[1] // g
    places = block_places(levels)
    blocks = [right[i * depth : (i + 1) * depth, j * columns : (j + 1) * columns] for i, j in places]
    matrix = reduce(np.kron, [np.array(RIGHT)] * levels)
    return np.asarray(np.tensordot(matrix, np.stack(blocks), 1).astype("float32"))


def pack(
    workload: Workload, variant: Variant, weight: np.ndarray, weights: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, ...]:
    """Weights [K, C] as [step][panel][product][depth of a step][columns of a panel]; bias; slope."""
    lanes, pieces = int(variant["lanes"]), []
    sums = sum_weights(weight, variant["levels"])
    for chunk in np.split(sums, int(variant["steps"]), axis=1):
        start = 0
        for count, size in split_evenly(sums.shape[2] // lanes, int(variant["vectors"])):
            for _ in range(count):
                pieces.append(chunk[:, :, start : start + size * lanes].ravel())
                start += size * lanes
    return np.concatenate(pieces), *pack_channel_vectors(workload, weights, lanes)
