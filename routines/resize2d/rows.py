"""Resizing of feature maps, one output row after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.resize2d import Taps
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import Blocked, blocked_layouts
from .._copy import copy_run
from .._rows import sweep
from .._threads import serial_seconds, thread_counts
from .._tir import Expr, Kernel
from .._vectors import shuffle

LARGEST_FACTOR = 4
"""Columns of one input that shuffles write side by side."""


@dataclass(frozen=True)
class _Repeat:
    """A horizontal axis whose output ``factor i + p`` is a mean of inputs i + start[p] and the one after, for every i.

    Args:
        start: First input of each remainder p.
        fraction: Weight of the second one; 0 for all where there is none.
    """

    start: tuple[int, ...]
    fraction: tuple[float, ...]

    @property
    def shifts(self) -> tuple[int, ...]:
        """Inputs that are read, counted from i."""
        pairs = zip(self.start, self.fraction, strict=True)
        return tuple(sorted({first + i for first, share in pairs for i in range(1 + (share > 0))}))

    @property
    def margin(self) -> int:
        """Inputs at either end of a row whose outputs read beyond it."""
        return max(0, -self.shifts[0], self.shifts[-1])

    @staticmethod
    def of(workload: Workload) -> _Repeat | None:
        """The repetition of a workload's columns; None if the factor is broken or large, or factors shift inputs."""
        source, target, attributes = workload.inputs[0].shape[3], workload.outputs[0].shape[3], workload.attributes
        factor = target // source
        if factor * source != target or not 1 < factor <= LARGEST_FACTOR:
            return None
        a, b, c = attributes.line(1, source)
        if a * factor != c:
            return None
        parts = [divmod(a * p + b, c) for p in range(factor)]
        is_linear = attributes.method == "linear"
        return _Repeat(tuple(low for low, _ in parts), tuple(rest / c if is_linear else 0.0 for _, rest in parts))


class Rows(Routine):
    """Reads the one or two input rows of an output row at places from a table.

    With channels side by side (NCHWc, NHWC) vectors of channels are copied, or combined from four positions. In NCHW a
    linear row is first the mean of two rows; then whole factors shuffle vectors of columns, others gather elements.
    Parallel over the rows of all channel blocks.

    Shapes: x [N, C, H, W]; places [2 (OH + OW)] or [OH + OW], int32, element offsets of rows, then columns; shares
    [OH + OW]; y [N, C, OH, OW].
    Error: none for the nearest neighbour; of three interpolations for linear.
    """

    kind = "resize2d"
    source = "Smith, A Pixel Is Not A Little Square (1995)"
    requirements = (
        Requirement(
            "offsets of 32 bits", lambda w, d: prod(w.inputs[0].shape[2:]) * (w.inputs[0].shape[1] + 64) < 2**31
        ),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One for each layout."""
        threads = thread_counts(device, serial_seconds(workload, 1, device))[0]
        for layout in (*blocked_layouts(device), "NHWC", "NCHW"):
            yield Variant((("threads", threads),), (Format(layout),), (Format(layout),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Exact for the nearest neighbour; a few units in the last place for linear."""
        return 0.0 if workload.attributes.method == "nearest" else 1e-6

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """The places that rows and columns read; their shares for linear."""
        source = Blocked(workload.inputs[0].shape, variant.inputs[0].layout)
        rows, columns = _taps(workload)
        parts = [rows.low * source.row, columns.low * source.block]
        if workload.attributes.method == "nearest":
            return (np.concatenate(parts).astype("int32"),)
        parts += [rows.high * source.row, columns.high * source.block]
        shares = np.concatenate([rows.fraction, columns.fraction])
        return np.concatenate(parts).astype("int32"), shares.astype("float32")

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, places, [shares], y."""
        return _Resize(workload, variant, device).emit()


def _taps(workload: Workload) -> tuple[Taps, Taps]:
    """Taps of rows and columns."""
    rows, columns = (workload.attributes.taps(axis, workload.inputs[0].shape[2 + axis]) for axis in (0, 1))
    return rows, columns


class _Resize:
    """Writes one kernel."""

    def __init__(self, workload: Workload, variant: Variant, device: Device) -> None:
        self.k, self.lanes, self.is_parallel = Kernel(), device.vector_lanes, int(variant["threads"]) > 1
        layout = variant.inputs[0].layout
        self.source, self.target = Blocked(workload.inputs[0].shape, layout), Blocked(workload.outputs[0].shape, layout)
        self.shapes = physical_shape(self.source.shape, layout), physical_shape(self.target.shape, layout)
        self.is_linear = workload.attributes.method == "linear"
        self.height, self.width = self.target.shape[2:]
        self.repeat = _Repeat.of(workload)
        self.x: Any = None
        self.y: Any = None
        self.places: Any = None
        self.shares: Any = None

    def emit(self) -> Any:
        k, extents = self.k, self.height + self.width
        with k:
            arguments = [("x", self.shapes[0], "float32"), ("places", ((1 + self.is_linear) * extents,), "int32")]
            arguments += [("shares", (extents,), "float32")] if self.is_linear else []
            arguments += [("y", self.shapes[1], "float32")]
            declared = [T.arg(name, T.buffer(shape, dtype)) for name, shape, dtype in arguments]
            flat = [
                T.decl_buffer((prod(shape),), dtype, data=buffer.data)
                for (_, shape, dtype), buffer in zip(arguments, declared, strict=True)
            ]
            self.x, self.places, *shares, self.y = flat
            self.shares = shares[0] if shares else None
            write = self._positions if self.target.layout != "NCHW" else self._elements
            planes = self.source.shape[0] * self.source.blocks
            with k.loop(planes * self.height, parallel=self.is_parallel) as index:
                plane, row = k.bind(index // self.height * self.source.plane), index % self.height
                rows = [k.bind(plane + self.places[row])]
                if self.is_linear:
                    rows.append(k.bind(plane + self.places[row + (self.height + self.width)]))
                write(rows, row, k.bind(index * self.target.row))
        return k.function

    @staticmethod
    def _mix(low: Expr, high: Expr, share: Expr) -> Expr:
        return low + (high - low) * share

    def _column(self, x: Expr, second: bool, lanes: int = 1) -> Expr:
        """Offset in a row of what output columns from `x` on read."""
        return self.k.load(self.places, x + self.height + (self.height + self.width if second else 0), lanes)

    def _positions(self, rows: list[Expr], row: Expr, into: Expr) -> None:
        """A row of channel vectors."""
        k, block = self.k, self.source.block
        down = k.bind(self.shares[row]) if self.shares is not None else None
        with k.loop(self.width) as x:
            low, at = k.bind(self._column(x, False)), k.bind(into + x * block)
            if down is None:
                copy_run(k, self.y, at, self.x, rows[0] + low, block, self.lanes)
                return
            high, across = k.bind(self._column(x, True)), k.bind(self.shares[x + self.height])

            def piece(lane: Expr, size: int) -> None:
                corners = [[k.load(self.x, r + c + lane, size) for c in (low, high)] for r in rows]
                share = k.splat(across, size)
                upper, lower = (k.pin(self._mix(left, right, share), size) for left, right in corners)
                k.store(self.y, at + lane, self._mix(upper, lower, k.splat(down, size)), size)

            sweep(k, block, self.lanes, piece)

    def _elements(self, rows: list[Expr], row: Expr, into: Expr) -> None:
        """A row of single elements."""
        k, width = self.k, self.source.shape[3]
        down = k.bind(self.shares[row]) if self.shares is not None else None

        def read(offset: Expr, size: int) -> Expr:
            """Elements of the mean of the rows."""
            value = k.load(self.x, rows[0] + offset, size)
            if down is not None:
                value = self._mix(value, k.load(self.x, rows[1] + offset, size), k.splat(down, size))
            return k.pin(value, size)

        if self.repeat:
            self._repeated(self.repeat, read, into)
        elif self.is_linear:
            mean = k.scratch(width)
            sweep(k, width, self.lanes, lambda offset, size: k.store(mean, offset, read(offset, size), size))
            self._gathered(mean, None, into)
        else:
            self._gathered(self.x, rows[0], into)

    def _repeated(self, repeat: _Repeat, read: Callable[[Expr, int], Expr], into: Expr) -> None:
        """Writes the outputs of neighbouring inputs: those of each remainder are vectors, which are interleaved."""
        k, factor, width = self.k, len(repeat.start), self.source.shape[3]
        parts = list(zip(repeat.start, repeat.fraction, strict=True))
        different = list(dict.fromkeys(parts))
        inner = max(0, width - 2 * repeat.margin)

        def write(offset: Expr, size: int, inside: bool) -> None:
            def at(shift: int) -> Expr:
                return offset + shift if inside else min(max(offset + shift, 0), width - 1)

            read_at = {shift: read(at(shift), size) for shift in repeat.shifts}
            made = [
                k.pin(self._mix(read_at[first], read_at[first + 1], k.splat(share, size)), size)
                if share
                else read_at[first]
                for first, share in different
            ]
            places = [different.index(part) for part in parts]
            lanes = [places[p] * size + i for i in range(size) for p in range(factor)]
            k.store(self.y, into + offset * factor, shuffle(made, size, lanes), size * factor)

        margin = (width - inner) // 2
        sweep(k, inner, self.lanes, lambda offset, size: write(offset + margin, size, True))
        for edge in (*range(margin), *range(margin + inner, width)):
            write(edge, 1, False)

    def _gathered(self, buffer: Any, start: Expr | None, into: Expr) -> None:
        """Writes outputs whose inputs lie anywhere in a row of a buffer."""
        k = self.k

        def piece(offset: Expr, size: int) -> None:
            def read(second: bool) -> Expr:
                place = self._column(offset, second, size)
                if start is not None:
                    place = place + (start if size == 1 else T.broadcast(start, size))
                return k.pin(buffer[place], size)

            value = read(False)
            if self.is_linear:
                value = self._mix(value, read(True), k.load(self.shares, offset + self.height, size))
            k.store(self.y, into + offset, value, size)

        if self.width >= self.lanes:
            sweep(k, self.width, self.lanes, piece)
            return
        with k.loop(self.width) as x:
            piece(x, 1)
