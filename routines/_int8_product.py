"""The kernel of 8-bit convolutions with one group of channels, and of 8-bit matrix products.

The output of a task (one image, one band of rows, one part of the output channels) is cut into register tiles of
positions x vectors of output channels. A tile adds up groups of neighbouring input channels, broadcast, times vectors
of weights, and is scaled, rounded and clamped to 8 bits before it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Variant

from ._int8 import BLOCK, Dot, corrected, declare, narrowed, pin, requantized, zero
from ._int8_sources import BandReader, Problem
from ._tir import Expr, Kernel, ceil_div, round_up
from ._vectors import shuffle
from .conv2d._bands import Band, Source
from .conv2d._tiles import MIN_CHAINS, Split, for_each_group, nest, split_evenly

LINE = 64
"""Bytes of a cache line."""


def padded_channels(problem: Problem) -> int:
    """Output channels of the packed weights: those that the output holds, and whole vectors."""
    blocked = problem.target.layout != "NHWC"
    return round_up(problem.g.k, BLOCK if blocked else problem.dot.lanes)


def groups_of(problem: Problem, vectors: int) -> Split:
    """How the vectors of output channels are cut into those of a tile."""
    return split_evenly(padded_channels(problem) // problem.dot.lanes, vectors)


def pack(
    workload: Workload, problem: Problem, vectors: int, weights: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, ...]:
    """Weights as [tile's vectors][R][S][step][group][K of the vectors][element of the group]; bias; multiplier.

    The axis of the steps is before that of R if `Problem.steps_inside` is False.
    """
    g, dot, channels = problem.g, problem.dot, padded_channels(problem)
    weight = weights["weight"].reshape(g.k, g.c, g.r, g.s)
    if problem.is_planar:
        weight = weight.transpose(0, 3, 1, 2).reshape(g.k, problem.depth, g.r, 1)
    padded = np.zeros((channels, problem.steps * problem.step, g.r, problem.columns), "int8")
    padded[: g.k, : problem.depth] = weight
    split = padded.reshape(channels, problem.steps, problem.step // dot.group, dot.group, g.r, problem.columns)
    ordered = split.transpose((4, 5, 1, 2, 0, 3) if problem.steps_inside else (1, 4, 5, 2, 0, 3))
    pieces, start = [], 0
    for count, size in groups_of(problem, vectors):
        for _ in range(count):
            pieces.append(ordered[..., start : start + size * dot.lanes, :].ravel())
            start += size * dot.lanes
    rest = [(0, channels - g.k)]
    bias, multiplier = corrected(workload, dot, weights), weights["multiplier"].astype("float32")
    return np.concatenate(pieces), np.pad(bias, rest), np.pad(multiplier, rest)


def tallest_tile(dot: Dot, vectors: int, registers: int) -> int:
    """Most positions whose sums stay in registers beside a row of weights and what is multiplied by them."""
    free = registers - vectors - dot.spare
    if dot.by_lane:  # a register of activations for each position, and room to load ahead
        return max(1, (free - 3) // (vectors + 1))
    return max(1, (free - 1) // vectors)


@dataclass(frozen=True)
class _Group:
    """Consecutive vectors of output channels that tiles share: how many, the first, and all there are."""

    vectors: int
    first: Expr
    total: int

    @property
    def is_last(self) -> Expr:
        """Whether there are no vectors behind it."""
        return self.first + self.vectors == self.total


class ProductWriter:
    """Writes the kernel of one variant.

    Args:
        problem: What is computed.
        variant: Parameters `vectors` of output channels in a tile; whether to `copy` the input; number of `bands` of
            rows and of `parts` of the output channels (bands x parts x batch run in parallel).
        device: Gives registers, threads and cache.
    """

    def __init__(self, problem: Problem, variant: Variant, device: Device) -> None:
        self.k, self.p, self.g, self.dot, self.device = Kernel(), problem, problem.g, problem.dot, device
        self.copies, self.bands, self.parts = bool(variant["copy"]), int(variant["bands"]), int(variant["parts"])
        self.height = ceil_div(problem.lines, self.bands)
        self.groups = groups_of(problem, int(variant["vectors"]))
        self.channels = padded_channels(problem)
        self.taps = problem.steps * problem.step * self.g.r * problem.columns
        self.together = gcd(BLOCK // self.dot.lanes, *(size for _, size in self.groups))
        self.is_weight_heavy = self.taps * self.g.k > device.l2_bytes // 2
        self.buffers: dict[str, Any] = {}
        self.sums: list[Any] = []

    def emit(self, x: tuple[int, ...], y: tuple[int, ...]) -> Any:
        """The PrimFunc: x, weight, bias, multiplier, y; x and y have these shapes in memory."""
        k, p = self.k, self.p
        with k:
            self.buffers = declare(
                {
                    "x": (x, p.dtype),
                    "weight": ((self.channels * self.taps,), "int8"),
                    "bias": ((self.channels,), "int32"),
                    "multiplier": ((self.channels,), "float32"),
                    "y": (y, p.attributes.output_dtype),
                }
            )
            tasks = self.g.n * self.bands * self.parts
            with k.loop(tasks, parallel=self.device.threads > 1 and tasks > 1) as task:
                index = task // self.parts
                self._task(index // self.bands, index % self.bands, task % self.parts)
        return k.function

    def _task(self, n: Expr, band: Expr, part: Expr) -> None:
        """One band, the last of which may overlap the one before, and the part's share of the output channels."""
        last = self.p.lines - self.height
        first = 0 if last == 0 else self.k.bind(T.min(band * self.height, last))
        whole = Band(n, first, self.height, self.height, True)
        source = BandReader(self.k, self.p, self.buffers["x"], self.dot.lanes).read(self.copies, whole)
        total = self.channels // self.dot.lanes
        for_each_group(
            self.k,
            self.groups,
            part,
            self.parts,
            lambda size, start: self._group(whole, source, _Group(size, start, total)),
        )

    def _group(self, band: Band, source: Source, group: _Group) -> None:
        """All positions of the band for one group of output channels."""
        g, widest = self.g, tallest_tile(self.dot, group.vectors, self.device.vector_registers)
        rows, columns = (1, self.height) if self.p.is_flat else (self.height, g.ow)
        split = split_evenly(columns, widest)
        tiles = rows * sum(count for count, _ in split)
        first = band.first * (1 if self.p.is_flat else g.ow)
        with nest(rows) as (y,):
            begin, index = 0, y * (tiles // rows)
            for count, width in split:
                with nest(count) as (t,):
                    x = begin + t * width
                    position = self.k.bind(first + y * g.ow + x)
                    offset = y * source.row + x * source.position
                    self._tile(source, offset, group, width, index + t, tiles)
                    self._finish(band.n, group, width, position)
                begin, index = begin + count * width, index + count

    def _tile(self, source: Source, offset: Expr, group: _Group, width: int, index: Expr, tiles: int) -> None:
        """The sums of a tile."""
        k, g, dot, p = self.k, self.g, self.dot, self.p
        lanes, size = dot.lanes, group.vectors
        chains = next((n for n in (1, 2) if width * size * n >= MIN_CHAINS), 4)
        # one small buffer for each position: larger ones would not be promoted to registers
        self.sums = [k.scratch(chains * size * lanes, "int32") for _ in range(width)]
        for buffer in self.sums:
            for j in range(size):
                k.store(buffer, j * lanes, k.load(self.buffers["bias"], (group.first + j) * lanes, lanes), lanes)
            for i in range(size, chains * size):
                k.store(buffer, i * lanes, zero("int32", lanes), lanes)
        weight, per = group.first * (lanes * self.taps), size * lanes
        taps, inside = (g.r, p.columns), p.steps_inside
        with nest(*((*taps, p.steps) if inside else (p.steps, *taps))) as loops:
            (r, s, b) = loops if inside else (*loops[1:], loops[0])
            start = k.bind(source.at(b, r, s) + offset)
            iteration = (r * p.columns + s) * p.steps + b if inside else (b * g.r + r) * p.columns + s
            row = k.bind(weight + iteration * (p.step * per))
            self._prefetch(weight + self.taps * per, per, (index, tiles), iteration)
            self._accumulate(source, start, row, size, chains)
        for buffer in self.sums:
            for i in range(size, chains * size):
                at = i % size * lanes
                k.store(buffer, at, k.load(buffer, at, lanes) + k.load(buffer, i * lanes, lanes), lanes)

    def _accumulate(self, source: Source, start: Expr, row: Expr, size: int, chains: int) -> None:
        """One step of input channels under one kernel position."""
        k, dot, lanes = self.k, self.dot, self.dot.lanes
        number, wide = self.p.step // dot.group, dot.lanes * dot.group
        places = [start + i * source.position for i in range(len(self.sums))]
        by_lane = dot.by_lane and number > 1
        rows = [dot.spread_lanes(source.buffer, at, number) for at in places] if by_lane else []
        for q in range(number):
            loaded = [k.load(self.buffers["weight"], row + (q * size + j) * wide, wide) for j in range(size)]
            columns = [dot.weights(value) for value in loaded]
            chain = q % chains * size
            for i, buffer in enumerate(self.sums):
                x = rows[i][q] if by_lane else dot.spread(source.buffer, places[i] + q * dot.group)
                for j, column in enumerate(columns):
                    at = (chain + j) * lanes
                    k.store(buffer, at, dot.add(k.load(buffer, at, lanes), x, column), lanes)

    def _prefetch(self, after: Expr, per: int, place: tuple[Expr, int], iteration: Expr) -> None:
        """Asks for a share of the weights of the next group, spread over the tiles of this one."""
        lines, (index, tiles) = ceil_div(self.p.step * per, LINE), place
        if not self.is_weight_heavy or tiles > 2 * lines:
            return
        share = ceil_div(lines, tiles)
        line = (index * (self.taps // self.p.step) + iteration) * share
        for i in range(share):
            self.k.prefetch(self.buffers["weight"], after + (line + i) * LINE)

    def _finish(self, n: Expr, group: _Group, width: int, position: Expr) -> None:
        """Stores the results of a tile."""
        k, lanes, together = self.k, self.dot.lanes, self.together
        number = together * lanes
        cut = self.g.k % lanes if self.p.target.layout == "NHWC" else 0
        for j in range(0, group.vectors, together):
            first = group.first + j
            factors = [k.bind(k.load(self.buffers["multiplier"], (first + t) * lanes, lanes)) for t in range(together)]
            for i in range(width):
                at = self._y(n, first, position + i)
                vectors = [
                    requantized(k.load(self.sums[i], (j + t) * lanes, lanes), factor, self.p.attributes, lanes)
                    for t, factor in enumerate(factors)
                ]
                value = narrowed(vectors, lanes, self.p.attributes.output_dtype)
                if not cut or j + together < group.vectors:
                    k.store(self.buffers["y"], at, value, number)
                    continue
                value = pin(value, self.p.attributes.output_dtype, number)
                k.when(
                    group.is_last,
                    lambda at=at, value=value: self._store_part(at, value, number, number - lanes + cut),  # type: ignore[misc]
                    lambda at=at, value=value: k.store(self.buffers["y"], at, value, number),  # type: ignore[misc]
                )

    def _store_part(self, at: Expr, value: Expr, lanes: int, count: int) -> None:
        """Stores the first `count` lanes of a vector."""
        done = 0
        while done < count:
            size = 1 << ((count - done).bit_length() - 1)
            part = shuffle([value], lanes, range(done, done + size))
            self.k.store(self.buffers["y"], at + done, part, size)
            done += size

    def _y(self, n: Expr, vector: Expr, position: Expr) -> Expr:
        """Offset of a vector of outputs."""
        target, channel = self.p.target, vector * self.dot.lanes
        if target.layout == "NHWC":
            return target.offset(n, 0, 0, position, channel)
        return target.offset(n, channel // BLOCK, 0, position, channel % BLOCK)


def copy_bytes(problem: Problem, variant: Variant) -> int:
    """Bytes of the copies of all bands for all parts, as if all ran at once."""
    if not variant["copy"]:
        return 0
    shape = problem.copied_shape(ceil_div(problem.lines, int(variant["bands"])))
    size = np.dtype(problem.dot.element).itemsize * prod(shape) * problem.pitch
    return problem.g.n * int(variant["bands"]) * int(variant["parts"]) * size
