"""Layers as matrix products: their sizes, and where vectors of channels lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from softneuro_tvm.graph import Workload

from ._blocked import Blocked
from ._tir import Expr

Place = Callable[[Expr, Expr, Expr], Expr]
"""Offset of a vector of channels: of (image, row, index of the vector)."""


@dataclass(frozen=True)
class Sizes:
    """y [images, rows, columns] = x [images, rows, depth] times weight [columns, depth], transposed."""

    images: int
    rows: int
    depth: int
    columns: int

    @staticmethod
    def of_dense(workload: Workload) -> Sizes:
        """A fully connected layer is one product."""
        *rows, depth = workload.inputs[0].shape
        return Sizes(1, prod(rows), depth, workload.outputs[0].shape[-1])

    @staticmethod
    def of_pointwise(workload: Workload) -> Sizes:
        """A 1x1 convolution with stride 1 is a product for each image; its rows are the positions."""
        n, k, oh, ow = workload.outputs[0].shape
        return Sizes(n, oh * ow, workload.inputs[0].shape[1], k)


def in_rows(columns: int, lanes: int) -> Place:
    """Where the vectors of one matrix with this many columns lie."""
    return lambda image, row, vector: row * columns + vector * lanes


def in_map(shape: tuple[int, ...], layout: str, lanes: int) -> Place:
    """Where the vectors of a feature map lie: NCHW<lanes>c, or NHWC with channels that are a multiple of `lanes`."""
    blocked = Blocked(shape, layout)
    if layout == "NHWC":
        return lambda image, row, vector: blocked.offset(image, 0, 0, row, vector * lanes)
    return lambda image, row, vector: blocked.offset(image, vector, 0, row)
