"""Transposed convolution of groups of channels, depthwise included: upsampling filters of segmentation networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import blocked_layouts, port_formats
from .._channels import ChannelVectors
from .._threads import serial_seconds, thread_counts
from .._tir import Expr, ceil_div
from .._window import Columns, Window, joined, tile_columns
from ..conv2d._ports import pack_vectors
from ..conv2d.grouped import groups_of, write_kernel
from ._phases import Axis, table


@dataclass(frozen=True)
class PhaseWindow(Window):
    """The windows of all phases: kernel rows come phase by phase, and an output reads a run of them, upwards.

    Args:
        axes: Vertical and horizontal axis.
    """

    axes: tuple[Axis, Axis]

    @staticmethod
    def of_transposed(workload: Workload) -> PhaseWindow:
        """The window of a transposed convolution."""
        rows, columns = (Axis.of(workload, axis) for axis in (0, 1))
        return PhaseWindow(
            (max(1, len(rows.order)), columns.kernel),
            (rows.stride, columns.stride),
            (-rows.step, columns.dilation),
            (rows.before, columns.before),
            (rows.source, columns.source),
            (rows.target, columns.target),
            (rows, columns),
        )

    def rows(self, y: Expr) -> tuple[Expr, Expr, Expr]:
        """Input row under kernel row 0 of the order, were it read, and the kernel rows that lie inside the input."""
        axis = self.axes[0]
        phases, step = axis.phases, axis.step
        number, phase = y // axis.stride, y % axis.stride
        firsts = [sum(len(p.taps) for p in phases[:i]) for i in range(len(phases))]
        begin: Expr = table(firsts, phase)
        end: Expr = begin + table([len(p.taps) for p in phases], phase)
        row = number + table([p.shift for p in phases], phase)
        top = row + begin * step
        if not axis.is_inside:
            first = begin
            begin = T.min(end, first + T.max(0, (row - axis.source + step) // step))
            end = T.max(begin, T.min(end, first + row // step + 1))
        return top, begin, end

    def left(self, x: Expr) -> Expr:
        """The input column that output column `x` reaches if no border is cut off; `feeds` counts from there."""
        return x // self.strides[1]

    def tiles(self, limit: int) -> Iterator[Columns]:
        """Tiles of whole strides; where a stride is wider than `limit`, tiles of the same parts of all strides."""
        stride, target = self.strides[1], self.target[1]
        if stride <= limit:
            widest = ceil_div(ceil_div(target, stride), ceil_div(target, limit // stride * stride)) * stride
            places = [(first, widest, widest) for first in range(0, target, widest)]
        else:
            part = ceil_div(stride, ceil_div(stride, limit))
            parts = range(0, min(stride, target), part)
            places = [(x, min(part, stride - p), stride) for p in parts for x in range(p, target, stride)]
        cut = [(first, min(width, target - first), step) for first, width, step in places]
        yield from joined(
            Columns(first, 1, width, all(self._is_inside(x) for x in range(first, first + width)), step)
            for first, width, step in cut
        )

    def _inputs(self, x: int) -> dict[int, int]:
        """Input columns that an output column reads, and the kernel columns that they meet."""
        axis = self.axes[1]
        places = {s: x + axis.before - s * axis.dilation for s in range(axis.kernel)}
        return {place // axis.stride: s for s, place in places.items() if place % axis.stride == 0}

    def _is_inside(self, x: int) -> bool:
        return all(0 <= column < self.source[1] for column in self._inputs(x))

    def feeds(self, columns: Columns) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Input columns that a tile reads, from `left(tile)` on, each with (output column, kernel column) it feeds."""
        found: dict[int, list[tuple[int, int]]] = {}
        for i in range(columns.width):
            for column, s in self._inputs(columns.first + i).items():
                if 0 <= column < self.source[1]:
                    found.setdefault(column - columns.first // self.strides[1], []).append((i, s))
        yield from sorted(found.items())


class Grouped(Routine):
    """A register tile of one output row x `columns` positions x a channel vector, straight from the input.

    An output row meets the kernel rows of its phase only; so does each column of a tile, which covers whole strides and
    therefore all phases: every input vector is read once for all of them. Channels as in grouped convolution: vectors
    of several groups are permuted in registers, for depthwise layers as they are. Parallel over the output rows of all
    channel vectors.

    Shapes: x [N, C, H, W]; weight [K, C / groups, R, S]; y [N, K, OH, OW]; NCHW<c>c.
    Error: that of a sum of R S C / groups products.
    Source: Shi et al., Is the deconvolution layer the same as a convolutional layer? (2016).
    """

    kind = "conv_transpose2d"
    source = "Shi et al., Is the deconvolution layer the same as a convolutional layer? (2016)"
    requirements = (
        Requirement("several groups", lambda w, d: w.attributes.groups > 1),
        Requirement("a kernel at most 64 wide", lambda w, d: w.weight_types["weight"].shape[3] <= 64),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One tile for each layout; two vectors where a group is wide."""
        _, reads, r_extent, s_extent = workload.weight_types["weight"].shape
        down, across = workload.attributes.strides
        terms = ceil_div(reads * r_extent * s_extent, down * across)
        window = PhaseWindow.of_transposed(workload)
        for layout in blocked_layouts(device):
            groups = groups_of(workload, layout)
            vectors = 2 if groups.writes % (2 * groups.lanes) == 0 else 1
            columns = tile_columns(device, window, s_extent * (reads if groups.permuted else vectors), vectors)
            for threads in thread_counts(device, serial_seconds(workload, terms, device)):
                params = (("vectors", vectors), ("columns", columns), ("threads", threads))
                yield Variant(params, *port_formats(workload, layout, layout))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """A few units in the last place, growing with the number of products."""
        _, reads, r_extent, s_extent = workload.weight_types["weight"].shape
        return 1e-6 + 1e-7 * reads * r_extent * s_extent

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights by phases of rows, as grouped convolution lays them out; bias and slope padded to whole vectors."""
        layout = variant.outputs[0].layout
        order = PhaseWindow.of_transposed(workload).axes[0].order or (0,)
        packed = groups_of(workload, layout, variant["vectors"]).pack(weights["weight"][:, :, list(order)])
        return packed, *pack_vectors(weights, ChannelVectors.of(workload.outputs[0].shape[1], layout, 1))

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, [residual], weight, bias, [slope], y."""
        return write_kernel(workload, variant, device, PhaseWindow.of_transposed(workload))
