"""Winograd convolution whose output transform ends with pooling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.conv_pool import ConvPool
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import Blocked
from .._tir import Expr
from ..conv2d._winograd_kernel import BandWriter, write_kernel
from ..conv2d._winograd_plan import kernel_extents, longest_taps
from ..conv2d.winograd import Winograd

_CONVOLUTION = Winograd()

MONOTONE = ("identity", "relu", "clip", "sigmoid", "tanh", "hard_sigmoid")
"""Activations that commute with a maximum."""


def _conv(workload: Workload) -> Workload:
    return ConvPool().part_workloads(workload)["conv"]


def _is_computed(workload: Workload, device: Device) -> bool:
    return _CONVOLUTION.refusal(_conv(workload), device) is None


def _tiles_are_even(workload: Workload, device: Device) -> bool:
    conv = _conv(workload)
    taps = longest_taps(kernel_extents(conv), conv.attributes.strides)
    return conv.attributes.dilation == (1, 1) and all(extent % 2 and extent > 1 for extent in taps)


def _halves(workload: Workload, device: Device) -> bool:
    pool, size = workload.attributes.pool, _conv(workload).outputs[0].shape[2:]
    is_whole = not any(pool.padding) and pool.overhang(*size) == (0, 0)
    return bool(is_whole and pool.kernel == pool.strides == (2, 2) and pool.dilation == (1, 1))


class PooledWinograd(Routine):
    """The convolution is that of `conv2d/winograd`; each tile of its outputs is pooled in registers.

    Tiles have an even number of rows and columns, so that no window lies in two of them; a quarter of the map is
    written. Bias and activation follow a maximum where they commute with it.

    Shapes: x NCHW<c>c; conv.weight [block of K][point][C][k], flat; y NCHW<c>c.
    Error: that of the convolution; where an average cancels, relative to smaller outputs.

    Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2015).
    """

    kind = "conv_pool"
    source = "Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2015)"
    requirements = (
        Requirement("a convolution that conv2d/winograd computes", _is_computed),
        Requirement("a kernel with an odd number of taps in both directions, without dilation", _tiles_are_even),
        Requirement("pooling windows of 2x2, side by side, none of them cut off", _halves),
    )

    def variants(self, workload: Workload, device: Device) -> Iterator[Variant]:
        """Those of the convolution."""
        yield from _CONVOLUTION.variants(_conv(workload), device)

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """That of the convolution, and twice that for an average, whose outputs are smaller than the sums."""
        factor = 1 if workload.attributes.pool.mode == "max" else 2
        return factor * _CONVOLUTION.error_bound(_conv(workload), variant)

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """That of the convolution."""
        return _CONVOLUTION.workspace_bytes(_conv(workload), variant)

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """As for the convolution."""
        own = {key.removeprefix("conv."): weight for key, weight in weights.items()}
        return _CONVOLUTION.pack(_conv(workload), variant, own)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """The kernel: x, weight, bias, [slope], y."""
        output = Blocked(workload.outputs[0].shape, variant.outputs[0].layout)
        writer_of = partial(_PooledBand, output=output, is_max=workload.attributes.pool.mode == "max")
        return write_kernel(_conv(workload), variant, device, writer_of, output)


@dataclass
class _PooledBand(BandWriter):
    """Writes the body of the loop over bands.

    Args:
        output: The pooled map.
        is_max: Whether windows become maxima, not averages.
    """

    output: Blocked
    is_max: bool

    def _transform_output(self, products: Any, source: Expr, vector: Expr, place: Any, tile_column: Expr) -> None:
        """Transforms one tile of one vector of output channels and pools its outputs, two rows at a time."""
        k, p, lanes, y = self.k, self.p, self.p.lanes, self.output
        half = self._transform_columns(products, source)
        bias = self._load("bias", vector * lanes)
        slope = self._load("slope", vector * lanes) if self.epilogue.is_prelu else None
        rows, columns = p.m[0] // 2, p.m[1] // 2
        target = k.bind(y.offset(place.image, vector, place.row * rows, tile_column * columns))

        def finish(i: int) -> None:
            above, below = (self._transform_row(half[2 * i + r]) for r in (0, 1))

            def store(windows: range) -> None:
                for j in windows:
                    pooled = self._pool([*above[2 * j : 2 * j + 2], *below[2 * j : 2 * j + 2]], bias, slope)
                    k.store(self.buffers["y"], target + i * y.row + j * lanes, pooled, lanes)

            always = min(columns, y.shape[3] - (p.grid_columns - 1) * columns)
            store(range(always))
            if always < columns and p.grid_columns > 1:
                k.when(tile_column < p.grid_columns - 1, partial(store, range(always, columns)))

        last = p.grid_rows - 1
        for i in range(rows):
            # windows of the last tile row that lie below the map are left out
            exists = True if last * rows + i < y.shape[2] else last > 0 and place.row < last
            k.when(exists, partial(finish, i))

    def _pool(self, sums: list[Expr], bias: Expr, slope: Expr) -> Expr:
        """The value of a window."""

        def finished(total: Expr) -> Expr:
            return self.epilogue.finish(total + bias, self.p.lanes, None, lambda: slope)

        if not self.is_max:
            first, second, third, fourth = (finished(total) for total in sums)
            return (first + second + third + fourth) * self.k.splat(0.25, self.p.lanes)
        if self.epilogue.activation.name in MONOTONE:
            return finished(_maximum(sums))
        return _maximum([finished(total) for total in sums])


def _maximum(values: list[Expr]) -> Expr:
    first, second, third, fourth = values
    return T.max(T.max(first, second), T.max(third, fourth))
