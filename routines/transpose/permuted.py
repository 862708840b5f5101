"""Transposes by register tiles, by runs, or by relabelling the axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, canonical_layout
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import VIEW, Routine, Variant

from .._copy import COPYABLE, copy_lanes, copy_run, threads_for
from .._tir import Expr, Kernel, ceil_div
from .._vectors import transpose

VIEW_RANKS = (3, 4)
"""Ranks whose permuted layouts other routines may read or write."""


@dataclass(frozen=True)
class _Axis:
    """An axis of the output, possibly several joined: extent and strides in elements."""

    extent: int
    read: int
    written: int


class Permuted(Routine):
    """Keeps what lies side by side before and after as runs; else transposes square tiles in vector registers.

    Also offered as a view: the input's memory is the output in a layout with permuted axes, or the input is read in the
    layout whose memory is the output's. Parallel over all loops outside tiles and runs.

    Shapes: x of any rank; y with permuted axes; canonical layouts, or one of them permuted. Error: none.
    """

    kind = "transpose"
    source = "Eklundh, A Fast Computer Method for Matrix Transposing, IEEE Transactions on Computers 1972"
    requirements = (COPYABLE,)

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """The copy, unless it moves nothing, and two views."""
        (tensor,), axes, dtype = workload.inputs, workload.attributes.axes, workload.inputs[0].dtype
        canonical = canonical_layout(tensor.rank)
        own = Format(canonical, dtype)
        yield Variant((("view", _moves_nothing(workload)),), (own,), (own,))
        if tensor.rank in VIEW_RANKS and not _moves_nothing(workload):
            target = "".join(canonical[axes.index(axis)] for axis in range(tensor.rank))
            yield Variant((("view", True),), (own,), (Format(target, dtype),))
            source = "".join(canonical[axis] for axis in axes)
            yield Variant((("view", True),), (Format(source, dtype),), (own,))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Exact."""
        return 0.0

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, y; or recognises a view."""
        if variant["view"]:
            return VIEW
        axes = _joined_axes(workload.inputs[0].shape, workload.attributes.axes)
        lanes, threads = copy_lanes(workload, device), threads_for(workload, device)
        with Kernel() as k:
            shapes = [("x", workload.inputs[0].shape), ("y", workload.outputs[0].shape)]
            x, y = k.arguments(*shapes, dtype=workload.inputs[0].dtype)
            if axes[-1].read == 1:
                with k.loop(prod(axis.extent for axis in axes[:-1]), threads > 1) as index:
                    start, at = _offsets(k, index, axes[:-1])
                    copy_run(k, y, at, x, start, axes[-1].extent, lanes)
            else:
                _transpose_tiles(k, x, y, axes, lanes, threads > 1)
        return k.function


def _moves_nothing(workload: Workload) -> bool:
    """True if only axes of extent 1 change places."""
    order = [axis for axis in workload.attributes.axes if workload.inputs[0].shape[axis] != 1]
    return order == sorted(order)


def _joined_axes(shape: tuple[int, ...], order: Sequence[int]) -> list[_Axis]:
    """Axes of the output, outermost first; neighbours in input and output are joined."""
    joined: list[_Axis] = []
    for position, axis in enumerate(order):
        extent, read = shape[axis], prod(shape[axis + 1 :])
        written = prod(shape[following] for following in order[position + 1 :])
        if extent == 1:
            continue
        if joined and joined[-1].read == read * extent:
            joined[-1] = _Axis(joined[-1].extent * extent, read, written)
        else:
            joined.append(_Axis(extent, read, written))
    return joined


def _offsets(k: Kernel, index: Expr, axes: Sequence[_Axis]) -> tuple[Expr, Expr]:
    """Where iteration `index` of the fused axes reads and writes."""
    start: Expr = 0
    at: Expr = 0
    for axis in reversed(axes):
        place = k.bind(index % axis.extent)
        start, at, index = start + place * axis.read, at + place * axis.written, index // axis.extent
    return k.bind(start), k.bind(at)


def _transpose_tiles(k: Kernel, x: Any, y: Any, axes: list[_Axis], lanes: int, parallel: bool) -> None:
    """Square tiles of the axes that are innermost before and after; tiles at the end overlap their neighbours."""
    rows = axes[-1]
    columns = next(axis for axis in axes if axis.read == 1)
    outer = [axis for axis in axes[:-1] if axis is not columns]
    size = lanes
    while size > min(rows.extent, columns.extent):
        size //= 2

    def first(tile: Expr, axis: _Axis) -> Expr:
        return k.bind(tile * size if axis.extent % size == 0 else T.min(tile * size, axis.extent - size))

    bands = ceil_div(columns.extent, size)
    with k.loop(prod(axis.extent for axis in outer) * bands, parallel) as index:
        start, at = _offsets(k, index // bands, outer)
        column = first(index % bands, columns)
        with k.loop(ceil_div(rows.extent, size)) as tile:
            row = first(tile, rows)
            read = k.bind(start + row * rows.read + column)
            written = k.bind(at + column * columns.written + row)
            values = [k.bind(k.load(x, read + i * rows.read, size)) for i in range(size)]
            for i, value in enumerate(transpose(values) if size > 1 else values):
                k.store(y, written + i * columns.written, value, size)
