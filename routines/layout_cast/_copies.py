"""Loops that copy a tensor of floating-point numbers or of bytes between two packed views, a vector at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from .._tir import Expr, Kernel, ceil_div
from .._vectors import shuffle, transpose
from ._bytes import transpose_bytes
from ._packed import Packed

FLOATS = ("float32", "float16")
"""Element types whose vectors are transposed by shuffles of any kind."""

POSITIONS = 16
"""Positions for which a run of channels is copied before the next run."""


def overlapping(index: Expr, step: int, extent: int) -> Expr:
    """Where tile `index` of `step` elements begins; the last one ends with the axis and may overlap the one before."""
    return index * step if extent % step == 0 else T.min(index * step, extent - step)


def pieces(count: int) -> list[tuple[int, int]]:
    """Splits a run of elements into (offset, length), lengths being powers of two."""
    found, offset = [], 0
    while offset < count:
        length = 1 << ((count - offset).bit_length() - 1)
        found.append((offset, length))
        offset += length
    return found


@dataclass(frozen=True, eq=False)
class Copy:
    """One copy.

    Args:
        k: The kernel.
        x: Buffer that is read.
        y: Buffer that is written.
        source: How `x` lies in memory.
        target: How `y` lies in memory.
        lanes: Elements of the widest vector.
        parallel: True if threads share the work.
        dtype: Element type: float32, float16, int8 or uint8.
    """

    k: Kernel
    x: Any
    y: Any
    source: Packed
    target: Packed
    lanes: int
    parallel: bool
    dtype: str

    def method(self) -> Callable[[], None] | None:
        """What emits the fastest loops that apply; None if only a copy of single elements does."""
        source, target = self.source, self.target
        if 1 not in (source.block, target.block):
            small, large = sorted((source.block, target.block))
            return self.runs if source.last or target.last or large % small == 0 else None
        if self.tile >= 4:
            return self.tiles
        interleaves = self.packed.last and 1 < self.packed.channels and self.packed.positions >= self.lanes
        return self.interleaved if interleaves else None

    def _transposed(self, rows: Sequence[Expr]) -> list[Expr]:
        return transpose(rows) if self.dtype in FLOATS else transpose_bytes(rows, self.dtype)

    def _zeros(self, lanes: int) -> Expr:
        return self.k.splat(0.0 if self.dtype in FLOATS else tirx.const(0, self.dtype), lanes)

    @property
    def packed(self) -> Packed:
        """The side with more channels side by side."""
        return max(self.source, self.target, key=lambda view: view.block)

    @property
    def tile(self) -> int:
        """Side of a square tile."""
        tile, packed = self.lanes, self.packed
        while tile > packed.positions or (tile > packed.channels if packed.last else packed.block % tile):
            tile //= 2
        return tile

    def _tasks(self, outer: int, inner: int, body: Callable[[Expr, Expr], None]) -> None:
        """Two loops, of which the outer one is parallel, or the inner one if the outer one is short."""
        k, long = self.k, outer >= 8
        with k.loop(outer, self.parallel and long) as i, k.loop(inner, self.parallel and not long) as j:
            body(i, j)

    def tiles(self) -> None:
        """Between NCHW and another layout: transposes square tiles of channels x positions."""
        packed, t = self.packed, self.tile
        unit = t if packed.last else packed.block
        full = ceil_div(packed.channels, t) if packed.last else packed.channels // unit
        rest = 0 if packed.last else packed.channels % unit

        def whole(i: Expr, j: Expr) -> None:
            channel = overlapping(i % full, unit, packed.channels - rest)
            self._tile(i // full, channel, overlapping(j, t, packed.positions), unit, unit)

        def partial(i: Expr, j: Expr) -> None:
            self._tile(i, full * unit, overlapping(j, t, packed.positions), unit, rest)

        steps = ceil_div(packed.positions, t)
        if full:
            self._tasks(packed.batch * full, steps, whole)
        if rest:
            self._tasks(packed.batch, steps, partial)

    def _tile(self, n: Expr, channel: Expr, position: Expr, unit: int, valid: int) -> None:
        """Copies t positions of `unit` channels, of which `valid` exist."""
        k, t = self.k, self.tile
        for begin in range(0, unit, t):
            present = max(0, min(t, valid - begin))
            if self.source.block == 1:
                rows = [k.load(self.x, self.source.offset(n, channel + begin + i, position), t) for i in range(present)]
                rows = [k.bind(row) for row in rows] + [self._zeros(t)] * (t - present)
                for i, column in enumerate(self._transposed(rows) if present else rows):
                    k.store(self.y, self.target.offset(n, channel, position + i) + begin, column, t)
            elif present:
                at = [self.source.offset(n, channel, position + i) + begin for i in range(t)]
                rows = self._transposed([k.bind(k.load(self.x, offset, t)) for offset in at])
                for i in range(present):
                    k.store(self.y, self.target.offset(n, channel + begin + i, position), rows[i], t)

    def interleaved(self) -> None:
        """Between NCHW and NHWC with few channels: t positions of all channels are C vectors on either side."""
        k, c, t, positions = self.k, self.source.channels, self.lanes, self.source.positions
        planar = self.source.block == 1

        def body(n: Expr, j: Expr) -> None:
            position = overlapping(j, t, positions)
            apart = [(n * c + i) * positions + position for i in range(c)]
            together = [(n * positions + position) * c + i * t for i in range(c)]
            read, written = (apart, together) if planar else (together, apart)
            vectors = [k.bind(k.load(self.x, offset, t)) for offset in read]
            for i, offset in enumerate(written):
                there = range(i * t, (i + 1) * t)
                lanes = [e % c * t + e // c for e in there] if planar else [e % t * c + e // t for e in there]
                k.store(self.y, offset, shuffle(vectors, t, lanes), t)

        self._tasks(self.source.batch, ceil_div(positions, t), body)

    def runs(self) -> None:
        """Between layouts with several channels side by side: copies runs of channels."""
        k, source, target = self.k, self.source, self.target
        m, positions = min(source.block, target.block), source.positions
        step, stored = min(POSITIONS, positions), min(source.stored, target.stored)
        full, rest, padding = stored // m, stored % m, target.stored - stored

        def copy(n: Expr, channel: Expr, position: Expr, count: int) -> None:
            start, end = k.bind(source.offset(n, channel, position)), k.bind(target.offset(n, channel, position))
            for begin, length in pieces(count):
                k.store(self.y, end + begin, k.load(self.x, start + begin, length), length)

        def body(n: Expr, j: Expr) -> None:
            first = overlapping(j, step, positions)
            with k.loop(full) as run, k.loop(step) as i:
                copy(n, run * m, first + i, m)
            with k.loop(step if rest or padding else 0) as i:
                copy(n, full * m, first + i, rest)
                for begin, length in pieces(padding):
                    k.store(self.y, target.offset(n, stored, first + i) + begin, self._zeros(length), length)

        self._tasks(source.batch, ceil_div(positions, step), body)
