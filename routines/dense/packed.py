"""Fully connected layers on weights in panels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import canonical_format
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import Epilogue, pack_channel_vectors
from .._half import also_in_float16, parts_of_sum, summing
from .._lanes import Rows, rows_together, tallest_tile
from .._tir import Expr, Kernel, cache_line, ceil_div, element, round_up
from ._tiles import UNROLL, Panel, Split, Tile, columns_of, part_of, split_evenly

FEW_ROWS = 4
"""Up to so many rows the weights, each read once, take the time; wide tiles read them from one place."""

SERIAL_FLOPS = 200_000
"""Smaller products are computed by one thread: starting the others takes as long."""

CHEAP = ("identity", "relu", "clip", "leaky_relu", "prelu", "hard_sigmoid", "hard_swish")
"""Activations of a few instructions; others are applied in a loop, so that their code is not repeated."""


def _reduction_steps(workload: Workload, width: int, device: Device) -> int:
    """Ranges of the reduction, such that one range of a panel takes a third of the second-level cache."""
    shape = workload.inputs[0].shape
    parts = 1 if element() == "float32" else parts_of_sum(shape[-1])
    if shape[-1] % UNROLL:
        return 1
    return parts if prod(shape[:-1]) <= FEW_ROWS else max(parts, ceil_div(4 * shape[-1] * width, device.l2_bytes // 3))


@also_in_float16(lambda workload, variant: summing(workload.inputs[0].shape[-1]))
class Packed(Routine):
    """Tiles of rows x `vectors` vectors of outputs; a panel holds the weights of a tile in the order they are read.

    Weights are packed as [K / (vectors lanes)][C][vectors lanes]. A panel stays in the second-level cache while all
    rows pass by, and the next one is prefetched; with few rows the weights are streamed from memory once.
    Parallel over panels x `bands` of rows.

    Shapes: x [..., C]; weight [K, C]; y [..., K]; canonical layouts. Error: that of a sum of C products; float16
    sums are made of short ones.
    """

    kind = "dense"
    source = "Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, ACM TOMS 2008"
    requirements = (Requirement("float32", lambda w, d: w.inputs[0].dtype == "float32"),)

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """Widths of the tile, and with threads the grain of the work."""
        rows, k = prod(workload.inputs[0].shape[:-1]), workload.outputs[0].shape[-1]
        lanes = device.vector_lanes
        while lanes > 4 and lanes >= 2 * k:
            lanes //= 2
        vectors = ceil_div(k, lanes)
        if rows <= FEW_ROWS:
            # besides sums and weights: a scalar, or vectors of them and room to load ahead
            besides = rows + 3 if rows_together(device.vector_lanes, device.vector_registers) else 1
            most = min(8, (device.vector_registers - besides) // (rows + 1))
            widths = [most, ceil_div(most, 2)]
        else:
            widths = [3, 4] if device.vector_registers >= 32 else [2, 3]
        inputs = tuple(canonical_format(tensor) for tensor in workload.inputs)
        outputs = (canonical_format(workload.outputs[0]),)
        is_small = 2 * rows * k * workload.inputs[0].shape[-1] < SERIAL_FLOPS
        threads = 1 if is_small else device.threads
        for width in dict.fromkeys(min(width, vectors) for width in widths):
            panels, steps = ceil_div(vectors, width), _reduction_steps(workload, width * lanes, device)
            bands = {1} if threads == 1 or rows < 2 * threads else {threads}
            if threads > 1 and panels >= threads:
                bands |= {1}
            for band in sorted(bands):
                params = (("vectors", width), ("lanes", lanes), ("bands", band), ("steps", steps), ("threads", threads))
                yield Variant(params, inputs, outputs)

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Grows with the number of products."""
        return 4e-6 + 1e-8 * workload.inputs[0].shape[-1]

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """Partial sums of a panel for each thread, if its reduction is cut into ranges."""
        width = variant["vectors"] * variant["lanes"]
        return 4 * prod(workload.inputs[0].shape[:-1]) * int(width) * variant["threads"] if variant["steps"] > 1 else 0

    def _panels(self, workload: Workload, variant: Variant) -> Split:
        return split_evenly(ceil_div(workload.outputs[0].shape[-1], variant["lanes"]), variant["vectors"])

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Panels, one after the other; bias and slope padded to whole vectors."""
        (k, c), lanes = workload.weight_types["weight"].shape, variant["lanes"]
        padded = np.zeros((ceil_div(k, lanes) * lanes, c), "float32")
        padded[:k] = weights["weight"]
        panels, start = [], 0
        for count, size in self._panels(workload, variant):
            stop = start + count * size * lanes
            panels.append(padded[start:stop].reshape(count, size * lanes, c).transpose(0, 2, 1).ravel())
            start = stop
        return np.concatenate(panels), *pack_channel_vectors(workload, weights, lanes)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, [residual], weight, bias, [slope], y."""
        return _Writer(workload, variant, device, self._panels(workload, variant)).function()


@dataclass(frozen=True)
class _Step:
    """What a loop over tiles of rows works on.

    Args:
        vector: First vector of the panel.
        size: Vectors of the panel.
        is_cut: True if columns of the panel do not exist.
        band: Which rows.
        index: Number of the range of the reduction.
        depth: Length of that range, as `Tile.product` takes it.
    """

    vector: Expr
    size: int
    is_cut: bool
    band: Expr
    index: Expr
    depth: tuple[Expr, int]


class _Writer:
    """Writes one kernel."""

    def __init__(self, workload: Workload, variant: Variant, device: Device, panels: Split) -> None:
        self.k, self.panels = Kernel(), panels
        self.shapes = workload.inputs[0].shape, workload.outputs[0].shape
        self.rows, self.depth, self.columns = prod(self.shapes[0][:-1]), self.shapes[0][-1], self.shapes[1][-1]
        self.lanes, self.bands = int(variant["lanes"]), int(variant["bands"])
        self.parallel = variant["threads"] > 1
        self.epilogue = Epilogue.of(workload)
        self.registers = device.vector_registers
        self.together = rows_together(device.vector_lanes, self.registers)
        self.steps = int(variant["steps"])
        self.adds_partial = element() != "float32"
        self.chunk = round_up(ceil_div(self.depth, self.steps), UNROLL) if self.steps > 1 else self.depth

    def function(self) -> Any:
        """The PrimFunc."""
        padded = ceil_div(self.columns, self.lanes) * self.lanes
        named: dict[str, tuple[int, ...]] = {"x": self.shapes[0]}
        named |= {"residual": self.shapes[1]} if self.epilogue.residual else {}
        named |= {"weight": (padded * self.depth,), "bias": (padded,)}
        named |= {"slope": (padded,)} if self.epilogue.is_prelu else {}
        named |= {"y": self.shapes[1]}
        with self.k:
            self.buffers = dict(zip(named, self.k.arguments(*named.items()), strict=True))
            number = sum(count for count, _ in self.panels)
            with self.k.loop(number * self.bands, self.parallel) as task:
                band = task % self.bands if self.bands > 1 else 0
                self._choose(self.k.bind(task // self.bands), band, 0, 0, self._kinds())
        return self.k.function

    def _kinds(self) -> Split:
        """Counts and sizes of the panels; the last one is apart if it has columns that do not exist."""
        *others, (count, size) = self.panels
        if self.columns % self.lanes == 0 or count == 1:
            return self.panels
        return (*others, (count - 1, size), (1, size))

    def _choose(self, panel: Expr, band: Expr, first: int, vector: int, kinds: Split) -> None:
        """Branches on the kind of a panel; `first` panels and `vector` vectors precede these kinds."""
        (count, size), rest = kinds[0], kinds[1:]
        self.k.when(
            True if not rest else panel < first + count,
            lambda: self._panel(
                self.k.bind(panel - first), (vector, size), not rest and self.columns % self.lanes != 0, band
            ),
            lambda: self._choose(panel, band, first + count, vector + count * size, rest),
        )

    def _panel(self, index: Expr, place: tuple[int, int], is_cut: bool, band: Expr) -> None:
        """All tiles of rows of a band: of panel `index` of those of one size that begin at vector `place[0]`."""
        k, (start, size) = self.k, place
        vector = start if is_cut else k.bind(start + index * size)
        bias = [k.bind(k.load(self.buffers["bias"], (vector + j) * self.lanes, self.lanes)) for j in range(size)]
        if self.steps == 1:
            self._step(_Step(vector, size, is_cut, band, 0, (self.depth // UNROLL, self.depth % UNROLL)), bias, None)
            return
        partial = k.scratch(self.rows * size * self.lanes)
        with k.loop(self.rows) as row:
            for j, value in enumerate(bias):
                k.store(partial, (row * size + j) * self.lanes, value, self.lanes)
        with k.loop(self.steps) as step:
            blocks = k.bind(T.min(self.chunk, self.depth - step * self.chunk) // UNROLL)
            self._step(_Step(vector, size, is_cut, band, step, (blocks, 0)), bias, partial)

    def _step(self, step: _Step, bias: Sequence[Expr], partial: Any) -> None:
        """All tiles of rows, for one range of the reduction."""
        k, size = self.k, step.size
        tall = self.rows if self.rows <= FEW_ROWS else tallest_tile(size, self.registers, self.together)
        tiles = split_evenly(self.rows, tall)
        share, done, row = ceil_div(sum(count for count, _ in tiles), self.bands), 0, 0
        line = cache_line()
        lines = UNROLL * size * self.lanes // line
        first = k.bind((step.vector * self.depth + step.index * (self.chunk * size)) * self.lanes)
        for count, height in tiles:
            begin = 0 if self.bands == 1 else T.max(0, T.min(count, step.band * share - done))
            end = count if self.bands == 1 else T.max(0, T.min(count, (step.band + 1) * share - done))
            with k.loop(end - begin) as i:
                tile = k.bind(begin + i)
                # each tile asks for a part of what is read next; weights that are read once are streamed by hardware
                each = ceil_div(lines, share) if self.rows > FEW_ROWS else 0
                next_part = k.bind(size * self.lanes * self.chunk + (tile + (done - step.band * share)) * (each * line))
                panel = Panel(self.buffers["weight"], first, next_part, each)
                self._tile(step, k.bind(row + tile * height), height, panel, bias, partial)
            done, row = done + count, row + count * height

    def _tile(self, step: _Step, row: Expr, height: int, panel: Panel, bias: Sequence[Expr], partial: Any) -> None:
        """One tile, and after the last step its epilogue."""
        k, lanes, size = self.k, self.lanes, step.size
        tile = Tile(k, height, size, lanes)
        starts = [k.bind((row + i) * self.depth + step.index * self.chunk) for i in range(height)]

        def place(i: int, j: int) -> Expr:
            return ((row + i) * size + j) * lanes

        def start(i: int, j: int) -> Expr:
            if partial is None:
                return bias[j]
            return k.splat(0.0, lanes) if self.adds_partial else k.load(partial, place(i, j), lanes)

        tile.product(Rows(self.buffers["x"], starts, 1, self.together), panel, step.depth, start)

        def put() -> None:
            for i in range(height):
                for j in range(size):
                    k.store(partial, place(i, j), tile.value(i, j), lanes)

        if partial is not None and self.adds_partial:
            for i in range(height):
                for j in range(size):
                    tile.add(i, j, k.load(partial, place(i, j), lanes))
        is_last = True if partial is None else step.index == self.steps - 1
        k.when(is_last, lambda: self._finish_tile(step, row, height, tile), put)

    def _finish_tile(self, step: _Step, row: Expr, height: int, tile: Tile) -> None:
        """Epilogue of a tile; one with much code is a loop over rows."""
        k, lanes, size = self.k, self.lanes, step.size
        if self.epilogue.activation.name in CHEAP or height == 1:
            for i in range(height):
                self._finish(step, row + i, [k.bind(tile.value(i, j)) for j in range(size)])
            return
        stored = k.stack(height * size * lanes)
        for i in range(height):
            for j in range(size):
                k.store(stored, (i * size + j) * lanes, tile.value(i, j), lanes)
        with k.loop(height) as i:
            sums = [k.bind(k.load(stored, (i * size + j) * lanes, lanes)) for j in range(size)]
            self._finish(step, row + i, sums)

    def _finish(self, step: _Step, row: Expr, sums: Sequence[Expr]) -> None:
        """Epilogue of one row of a tile."""
        k, lanes = self.k, self.lanes

        def load(name: str, at: Expr, width: int) -> Callable[[], Expr]:
            return lambda: k.load(self.buffers[name], at, width)

        for j, value in enumerate(sums):
            vector = step.vector + j
            for lane, width in columns_of(vector, lanes, self.columns) if step.is_cut else [(0, lanes)]:
                column = vector * lanes + lane
                at = k.bind(row * self.columns + column)
                part = part_of(value, lanes, lane, width)
                result = self.epilogue.finish(part, width, load("residual", at, width), load("slope", column, width))
                k.store(self.buffers["y"], at, result, width)
