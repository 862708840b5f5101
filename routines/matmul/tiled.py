"""Products of two activations, the right one packed on the way."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, canonical_format, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._lanes import Rows, rows_together, tallest_tile
from .._tir import Expr, Kernel, ceil_div
from .._vectors import transpose
from ..dense._tiles import UNROLL, Panel, Split, Tile, columns_of, part_of, split_evenly
from ._operands import Operand

SERIAL_FLOPS = 400_000
"""Smaller products are computed by one thread: starting the others takes as long."""

HEADS_INSIDE, HEADS_BETWEEN = "NHCW", "NWCH"
"""Memory [N, rows, heads, columns] of a stack [N, heads, rows, columns], and of the stack of transposed matrices.

With them attention needs no transposing copies.
"""


class Tiled(Routine):
    """Tiles of rows x `vectors` vectors of columns over a panel of B, copied (or transposed) into scratch memory.

    Parallel over batch x panels x `bands` of rows.

    Shapes: a [..., M, K] (or [..., K, M]); b [..., K, N] (or [..., N, K]); y [..., M, N]; canonical layouts, b also
    with its last axes exchanged, and for rank 4 those in which heads lie between rows and columns.
    Error: that of a sum of K products.
    """

    kind = "matmul"
    source = "Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, ACM TOMS 2008"
    requirements = (Requirement("float32", lambda w, d: w.inputs[0].dtype == "float32"),)

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One tile; canonical layouts, B turned, and what attention reads and writes where heads are an inner axis."""
        (*batch, m, n), attributes = workload.outputs[0].shape, workload.attributes
        depth = _depth(workload)
        total = ceil_div(n, device.vector_lanes)
        narrow, wide = (3, 4) if device.vector_registers >= 32 else (2, 3)
        vectors = min(total, wide if ceil_div(total, wide) < ceil_div(total, narrow) else narrow)
        threads = device.threads if 2 * prod(batch) * m * n * depth >= SERIAL_FLOPS else 1
        tasks = prod(batch) * ceil_div(total, vectors)
        even = (b for b in range(1, threads + 1) if tasks * b % threads == 0 or tasks * b >= 4 * threads)
        bands = min(next(even), m)
        params = (("vectors", vectors), ("lanes", device.vector_lanes), ("bands", bands), ("threads", threads))
        ports = (*workload.inputs, *workload.outputs)
        layouts = [tuple(canonical_format(tensor).layout for tensor in ports)]
        (a, b, y), is_plain = layouts[0], not (attributes.transpose_a or attributes.transpose_b)
        if is_plain and workload.inputs[1].rank in (3, 4):
            layouts += [(a, f"{b[:-2]}{b[-1]}{b[-2]}", y)]
        if all(tensor.rank == 4 for tensor in ports) and not attributes.transpose_a:
            scores = HEADS_INSIDE if attributes.transpose_b else HEADS_BETWEEN
            layouts += [(HEADS_INSIDE, scores, "NCHW")]
            if is_plain:
                layouts += [("NCHW", right, HEADS_INSIDE) for right in ("NCHW", HEADS_INSIDE)]
        for a, b, y in layouts:
            yield Variant(params, (Format(a), Format(b)), (Format(y),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Grows with the number of products."""
        return 4e-6 + 1e-8 * _depth(workload)

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """One panel for each thread."""
        return 4 * _depth(workload) * int(variant["vectors"] * variant["lanes"] * variant["threads"])

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: a, b, y."""
        return _Writer(workload, variant, device).function()


def _depth(workload: Workload) -> int:
    """K."""
    *_, rows, columns = workload.inputs[0].shape
    return rows if workload.attributes.transpose_a else columns


class _Writer:
    """Writes one kernel."""

    def __init__(self, workload: Workload, variant: Variant, device: Device) -> None:
        self.k, self.variant = Kernel(), variant
        self.types = [*workload.inputs, *workload.outputs]
        self.formats = [*variant.inputs, *variant.outputs]
        turned = (workload.attributes.transpose_a, workload.attributes.transpose_b, False)
        rank = workload.outputs[0].rank
        self.a, self.b, self.y = (
            Operand.of(t.shape, f.layout, is_turned, rank)
            for t, f, is_turned in zip(self.types, self.formats, turned, strict=True)
        )
        *batch, self.rows, self.columns = workload.outputs[0].shape
        self.batch, self.depth = tuple(batch), _depth(workload)
        self.lanes, self.bands = int(variant["lanes"]), int(variant["bands"])
        self.registers = device.vector_registers
        self.together = rows_together(device.vector_lanes, self.registers, self.a.row, self.a.column)
        vectors = split_evenly(ceil_div(self.columns, self.lanes), variant["vectors"])
        *others, (count, size) = vectors
        is_cut = self.columns % self.lanes != 0 and count > 1
        self.panels: Split = (*others, (count - 1, size), (1, size)) if is_cut else vectors

    def function(self) -> Any:
        """The PrimFunc."""
        shapes = [physical_shape(t.shape, f.layout) for t, f in zip(self.types, self.formats, strict=True)]
        number = sum(count for count, _ in self.panels)
        with self.k as k:
            self.buffers = dict(zip("aby", k.arguments(*zip("aby", shapes, strict=True)), strict=True))
            with k.loop(prod(self.batch) * number * self.bands, self.variant["threads"] > 1) as task:
                stack: Expr = task // (number * self.bands)
                index: list[Expr] = []
                for extent in reversed(self.batch):
                    index.insert(0, k.bind(stack % extent))
                    stack = stack // extent
                starts = {name: k.bind(o.offset(index)) for name, o in (("a", self.a), ("b", self.b), ("y", self.y))}
                band = k.bind(task % self.bands)
                self._choose(k.bind(task // self.bands % number), band, starts, 0, 0, self.panels)
        return k.function

    def _choose(self, panel: Expr, band: Expr, starts: dict[str, Expr], first: int, vector: int, kinds: Split) -> None:
        """Branches on the kind of a panel; `first` panels and `vector` vectors precede these kinds."""
        (count, size), rest = kinds[0], kinds[1:]
        self.k.when(
            True if not rest else panel < first + count,
            lambda: self._panel(
                vector if count == 1 else self.k.bind(vector + (panel - first) * size), size, band, starts
            ),
            lambda: self._choose(panel, band, starts, first + count, vector + count * size, rest),
        )

    def _panel(self, vector: Expr, size: int, band: Expr, starts: dict[str, Expr]) -> None:
        """Packs a panel and computes all tiles of its band; a panel that is cut has a constant `vector`."""
        k = self.k
        packed = k.scratch(self.depth * size * self.lanes)
        if self.b.column == 1:
            self._pack_rows(packed, vector, size, starts["b"])
        else:
            self._pack_columns(packed, vector, size, starts["b"])
        tiles = split_evenly(self.rows, tallest_tile(size, self.registers, self.together))
        share, done, row = ceil_div(sum(count for count, _ in tiles), self.bands), 0, 0
        for count, height in tiles:
            begin = 0 if self.bands == 1 else T.max(0, T.min(count, band * share - done))
            end = count if self.bands == 1 else T.max(0, T.min(count, (band + 1) * share - done))
            with k.loop(end - begin) as i:
                self._tile(k.bind(row + (begin + i) * height), height, vector, size, packed, starts)
            done, row = done + count, row + count * height

    def _pack_rows(self, packed: Any, vector: Expr, size: int, start: Expr) -> None:
        """Copies the panel's columns of every row of B; columns that do not exist become 0."""
        k, lanes = self.k, self.lanes
        with k.loop(self.depth) as c:
            read = k.bind(start + c * self.b.row + vector * lanes)
            write = k.bind(c * (size * lanes))
            for j in range(size):
                for lane, width in self._parts(vector, j):
                    value = k.load(self.buffers["b"], read + j * lanes + lane, width)
                    k.store(packed, write + j * lanes + lane, value, width)
                if isinstance(vector, int):
                    for lane in range(max(0, self.columns - (vector + j) * lanes), lanes):
                        k.store(packed, write + j * lanes + lane, k.splat(0.0, 1), 1)

    def _pack_columns(self, packed: Any, vector: Expr, size: int, start: Expr) -> None:
        """Transposes squares of B; columns that do not exist repeat the last one."""
        k, lanes, side = self.k, self.lanes, self.lanes
        while side > self.depth:
            side //= 2
        with k.loop(size * lanes // side) as group, k.loop(ceil_div(self.depth, side)) as step:
            c = k.bind(step * side if self.depth % side == 0 else T.min(step * side, self.depth - side))
            column = k.bind(vector * lanes + group * side)
            values = []
            for i in range(side):
                place = T.min(column + i, self.columns - 1) * self.b.column
                values.append(k.bind(self._strided(start + place + c * self.b.row, side)))
            for i, value in enumerate(transpose(values) if side > 1 else values):
                k.store(packed, (c + i) * (size * lanes) + group * side, value, side)

    def _strided(self, at: Expr, size: int) -> Expr:
        """`size` elements of a column of B."""
        if size == 1:
            return self.buffers["b"][at]
        return self.buffers["b"][T.ramp(at, self.b.row, size)]

    def _parts(self, vector: Expr, j: int) -> list[tuple[int, int]]:
        """The columns of vector j of a panel that exist: pairs (lane, number)."""
        return columns_of(vector + j, self.lanes, self.columns) if isinstance(vector, int) else [(0, self.lanes)]

    def _tile(self, row: Expr, height: int, vector: Expr, size: int, packed: Any, starts: dict[str, Expr]) -> None:
        """One tile."""
        k, tile = self.k, Tile(self.k, height, size, self.lanes)
        left = Rows(
            self.buffers["a"],
            [k.bind(starts["a"] + (row + i) * self.a.row) for i in range(height)],
            self.a.column,
            self.together,
        )
        zero = k.splat(0.0, self.lanes)
        tile.product(left, Panel(packed, 0), (self.depth // UNROLL, self.depth % UNROLL), lambda i, j: zero)
        for i in range(height):
            at = k.bind(starts["y"] + (row + i) * self.y.row)
            for j in range(size):
                value = k.bind(tile.value(i, j))
                for lane, width in self._parts(vector, j):
                    place = at + (vector + j) * self.lanes + lane
                    k.store(self.buffers["y"], place, part_of(value, self.lanes, lane, width), width)
