"""The kernel behind the routines that multiply by Strassen's algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Variant

from ._blocked import Epilogue
from ._lanes import Rows, rows_together, tallest_tile
from ._products import Place, Sizes
from ._strassen import LEFT, RESULT, Scratch, block_places, groups_of, products_of
from ._tir import Expr, Kernel, cache_line, ceil_div
from .dense._tiles import UNROLL, Panel, Split, Tile, split_evenly

Matrix = Sequence[Sequence[int]]


def _level(k: Kernel, matrix: Matrix, values: Sequence[Expr], lanes: int) -> list[Expr]:
    """The sums of some vectors that the rows of a matrix say, each of which begins with a term that is not negative."""
    found = []
    for row in matrix:
        signs = [sign for sign in row if sign]
        terms = sorted(zip(signs, (v for sign, v in zip(row, values, strict=True) if sign), strict=True), key=_is_minus)
        total = reduce(lambda a, b: a + b[1] if b[0] > 0 else a - b[1], terms[1:], terms[0][1])
        found.append(k.pin(total, lanes) if len(terms) > 1 else total)
    return found


def _is_minus(term: tuple[int, Expr]) -> bool:
    return term[0] < 0


def combine(k: Kernel, matrix: Matrix, values: Sequence[Expr], levels: int, lanes: int) -> list[Expr]:
    """Applies a Kronecker power of a matrix to vectors, level by level, the outermost first."""
    if levels == 1:
        return _level(k, matrix, values, lanes)
    size = len(values) // len(matrix[0])
    columns = [_level(k, matrix, values[i::size], lanes) for i in range(size)]
    return [v for row in zip(*columns, strict=True) for v in combine(k, matrix, row, levels - 1, lanes)]


class StrassenWriter:
    """Writes one kernel.

    For a block of rows of every group all sums of its activations are made first, as [product][row][channel]. For every
    panel of columns the products of these sums with the panel's weights, which are streamed from memory, follow; then
    the products are added up into y. A reduction in several `steps` adds to what is in y. Blocks of rows, and `parts`
    of the panels, run in parallel.

    Args:
        workload: A layer with the epilogue of a convolution.
        variant: Its parameters, see `_strassen.settings`.
        device: Gives registers.
        sizes: The product.
        x_at: Where vectors of channels lie in x.
        y_at: Where they lie in y and in the residual.
    """

    def __init__(
        self, workload: Workload, variant: Variant, device: Device, sizes: Sizes, x_at: Place, y_at: Place
    ) -> None:
        self.k, self.workload, self.variant, self.sizes = Kernel(), workload, variant, sizes
        self.x_at, self.y_at, self.registers = x_at, y_at, device.vector_registers
        self.together = rows_together(device.vector_lanes, self.registers)
        self.lanes, self.levels = int(variant["lanes"]), int(variant["levels"])
        self.height, self.steps, self.parts = int(variant["rows"]), int(variant["steps"]), int(variant["parts"])
        self.groups, self.products = groups_of(self.levels), products_of(self.levels)
        self.group_rows = ceil_div(sizes.rows, self.groups)
        self.blocks = ceil_div(self.group_rows, self.height)
        self.depth = sizes.depth // self.groups // self.steps
        self.columns = sizes.columns // self.groups
        self.panels = split_evenly(self.columns // self.lanes, int(variant["vectors"]))
        self.scratch = Scratch.of(sizes, variant)
        self.epilogue = Epilogue.of(workload)
        self.buffers: dict[str, Any] = {}

    def function(self) -> Any:
        """The PrimFunc: x, [residual], weight, bias, [slope], y."""
        k, w, s = self.k, self.workload, self.sizes
        out = physical_shape(w.outputs[0].shape, self.variant.outputs[0].layout)
        shapes: dict[str, tuple[int, ...]] = {"x": physical_shape(w.inputs[0].shape, self.variant.inputs[0].layout)}
        shapes |= {"residual": out} if self.epilogue.residual else {}
        shapes |= {"weight": (self.products * (s.depth // self.groups) * self.columns,), "bias": (s.columns,)}
        shapes |= {"slope": (s.columns,)} if self.epilogue.is_prelu else {}
        shapes["y"] = out
        tasks = s.images * self.blocks * self.parts
        with k:
            self.buffers = dict(zip(shapes, k.arguments(*shapes.items()), strict=True))
            with k.loop(tasks, parallel=self.variant["threads"] > 1 and tasks > 1) as task:
                index = task // self.parts
                self._task(k.bind(index // self.blocks), k.bind(index % self.blocks), task % self.parts)
        return k.function

    def _task(self, image: Expr, block: Expr, part: Expr) -> None:
        """A block of rows of every group, and a share of the panels."""
        k = self.k
        self.sums = k.scratch(self.products * self.scratch.sums)
        self.found = k.scratch(self.products * self.scratch.found)
        number = sum(count for count, _ in self.panels)
        share = ceil_div(number, self.parts)
        with k.loop(self.steps) as step:
            self._sum(image, block, step)
            with k.loop(T.min(share, number - part * share) if self.parts > 1 else number) as i:
                self._choose((image, block, step), k.bind(part * share + i), 0, 0, self.panels)

    def _choose(self, place: tuple[Expr, Expr, Expr], panel: Expr, first: int, vector: int, kinds: Split) -> None:
        """Branches on the width of a panel; `first` panels and `vector` vectors precede these kinds."""
        (count, size), rest = kinds[0], kinds[1:]

        def body() -> None:
            start = self.k.bind(vector + (panel - first) * size)
            self._multiply(place[2], start, size)
            self._add_up(*place, start, size)

        self.k.when(
            True if not rest else panel < first + count,
            body,
            lambda: self._choose(place, panel, first + count, vector + count * size, rest),
        )

    def _sum(self, image: Expr, block: Expr, step: Expr) -> None:
        """Makes the left sides of all products."""
        with self.k.loop(self.height) as i, self.k.loop(self.depth // self.lanes) as c:
            self._sum_vector(image, block, step, i, c)

    def _sum_vector(self, image: Expr, block: Expr, step: Expr, i: Expr, c: Expr) -> None:
        """Vector `c` of row `i` of every sum; for rows that do not exist it takes the last one's values."""
        k, lanes, vectors = self.k, self.lanes, self.depth // self.lanes
        row = block * self.height + i
        if self.blocks * self.height > self.group_rows:
            row = T.min(row, self.group_rows - 1)
        rows = [k.bind(T.min(row + group * self.group_rows, self.sizes.rows - 1)) for group in range(self.groups)]
        values = []
        for group, part in block_places(self.levels):
            at = k.bind(self.x_at(image, rows[group], (part * self.steps + step) * vectors + c))
            values.append(k.pin(k.load(self.buffers["x"], at, lanes), lanes))
        to = k.bind(i * self.scratch.row + c * lanes)
        for product, value in enumerate(combine(k, LEFT, values, self.levels, lanes)):
            k.store(self.sums, product * self.scratch.sums + to, value, lanes)

    def _multiply(self, step: Expr, vector: Expr, size: int) -> None:
        """All products of a panel, as [product][row][column]."""
        k, width = self.k, size * self.lanes
        tiles = split_evenly(self.height, tallest_tile(size, self.registers, self.together))
        # each tile asks for a part of the next product's weights
        each = ceil_div(UNROLL * width // cache_line(), sum(count for count, _ in tiles))
        first = k.bind((step * self.columns + vector * self.lanes) * (self.products * self.depth))
        with k.loop(self.products) as product:
            weight = k.bind(first + product * (self.depth * width))
            done, row = 0, 0
            for count, height in tiles:
                with k.loop(count) as i:
                    top = k.bind(row + i * height)
                    panel = Panel(
                        self.buffers["weight"], weight, self.depth * width + (done + i) * (each * cache_line()), each
                    )
                    self._tile(product, top, height, size, panel)
                done, row = done + count, row + count * height

    def _tile(self, product: Expr, top: Expr, height: int, size: int, panel: Panel) -> None:
        """One register tile of a product."""
        k, lanes = self.k, self.lanes
        read = k.bind(product * self.scratch.sums + top * self.scratch.row)
        write = k.bind(product * self.scratch.found + top * (size * lanes))
        tile, zero = Tile(k, height, size, lanes), k.splat(0.0, lanes)
        rows = Rows(self.sums, [k.bind(read + i * self.scratch.row) for i in range(height)], 1, self.together)
        tile.product(rows, panel, (self.depth // UNROLL, self.depth % UNROLL), lambda i, j: zero)
        for i in range(height):
            for j in range(size):
                k.store(self.found, write + (i * size + j) * lanes, tile.value(i, j), lanes)

    def _add_up(self, image: Expr, block: Expr, step: Expr, first: Expr, size: int) -> None:
        """Adds the products of a panel up into y."""
        k, lanes, places = self.k, self.lanes, block_places(self.levels)
        results = k.stack(len(places) * lanes)
        with k.loop(T.min(self.height, self.group_rows - block * self.height)) as i, k.loop(size) as j:
            at = k.bind((i * size + j) * lanes)
            values = [
                k.pin(k.load(self.found, product * self.scratch.found + at, lanes), lanes)
                for product in range(self.products)
            ]
            for (group, part), value in zip(places, combine(k, RESULT, values, self.levels, lanes), strict=True):
                k.store(results, (group * self.groups + part) * lanes, value, lanes)
            with k.loop(self.groups) as group, k.loop(self.groups) as part:
                row = k.bind(block * self.height + i + group * self.group_rows)
                vector = k.bind(part * (self.columns // lanes) + first + j)
                value = k.load(results, (group * self.groups + part) * lanes, lanes)
                exists = True if self.sizes.rows % self.groups == 0 else row < self.sizes.rows
                k.when(exists, partial(self._put, image, step, row, vector, value))

    def _put(self, image: Expr, step: Expr, row: Expr, vector: Expr, value: Expr) -> None:
        """Adds one vector to the sum of the steps before, and finishes it after the last one."""
        k, lanes, y = self.k, self.lanes, self.buffers["y"]
        at, channel = k.bind(self.y_at(image, row, vector)), vector * lanes

        def load(name: str, offset: Expr) -> Expr:
            return k.load(self.buffers[name], offset, lanes)

        def finish(total: Expr) -> None:
            result = self.epilogue.finish(total, lanes, lambda: load("residual", at), lambda: load("slope", channel))
            k.store(y, at, result, lanes)

        if self.steps == 1:
            finish(value + load("bias", channel))
            return
        total = k.scratch(lanes)
        k.when(
            step == 0,
            lambda: k.store(total, 0, value + load("bias", channel), lanes),
            lambda: k.store(total, 0, value + load("y", at), lanes),
        )
        summed = k.load(total, 0, lanes)
        k.when(step == self.steps - 1, lambda: finish(summed), lambda: k.store(y, at, summed, lanes))
