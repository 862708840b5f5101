"""The kernel behind `bands`: expand, depthwise and project a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.inverted_residual import InvertedResidual
from softneuro_tvm.routine import Variant

from .._blocked import Blocked, Epilogue
from .._tir import Expr, Kernel, all_of, ceil_div
from .._window import Columns, Window, sweep, tile_columns
from ..conv2d._bands import Geometry
from ..conv2d._blocked_conv import CHEAP
from ..conv2d._product import Product, Store
from ..conv2d._tiles import Split, for_each_group, nest, split_evenly


@dataclass(frozen=True)
class Plan:
    """Sizes and parts of a kernel.

    Args:
        workload: The composite.
        variant: Parameters `rows` of a step, `bands` of rows, `vectors` of a tile of each product.
        device: Gives vectors and registers.
    """

    workload: Workload
    variant: Variant
    device: Device

    @property
    def parts(self) -> dict[str, Workload]:
        """The convolutions by name."""
        return InvertedResidual().part_workloads(self.workload)

    @property
    def source(self) -> Blocked:
        """The map that is read."""
        return Blocked(self.workload.inputs[0].shape, self.variant.inputs[0].layout)

    @property
    def target(self) -> Blocked:
        """The map that is written."""
        return Blocked(self.workload.outputs[0].shape, self.variant.outputs[0].layout)

    @property
    def lanes(self) -> int:
        """Of a vector of the depthwise convolution's channels: where it reads x or writes y, their block."""
        if "expand" not in self.parts:
            return self.source.block
        return self.device.vector_lanes if "project" in self.parts else self.target.block

    def product(self, name: str) -> Product | None:
        """One of the 1x1 convolutions; None for the depthwise one, and for what is not there."""
        if name == "depthwise" or name not in self.parts:
            return None
        expands = name == "expand"
        return Product(
            self.parts[name],
            self.source.block if expands else self.lanes,
            self.lanes if expands else self.device.vector_lanes,
            self.variant[name],
            self.device.vector_registers,
        )

    @property
    def geometry(self) -> Geometry:
        """Sizes of the depthwise convolution."""
        return Geometry.of(self.parts["depthwise"])

    @property
    def vectors(self) -> int:
        """Channel vectors of the depthwise convolution."""
        return ceil_div(self.geometry.k, self.lanes)

    @property
    def slots(self) -> int:
        """Rows of the expanded map that one step reads, and that the ring buffer holds."""
        g = self.geometry
        return (int(self.variant["rows"]) - 1) * g.strides[0] + (g.r - 1) * g.dilation[0] + 1

    @property
    def width(self) -> int:
        """Columns of the expanded map that are read, padding included."""
        g = self.geometry
        return (g.ow - 1) * g.strides[1] + (g.s - 1) * g.dilation[1] + 1

    @property
    def scratch_elements(self) -> int:
        """Elements of the ring buffer, and of the rows between the last two convolutions, for one band."""
        ring = self.slots * self.width if "expand" in self.parts else 0
        rows = self.variant["rows"] * self.geometry.ow if "project" in self.parts else 0
        return self.vectors * self.lanes * (ring + rows)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The kernel's arguments."""
        y = physical_shape(self.target.shape, self.target.layout)
        shapes: dict[str, tuple[int, ...]] = {"x": physical_shape(self.source.shape, self.source.layout)}
        shapes |= {"residual": y} if len(self.workload.inputs) > 1 else {}
        for name, part in self.parts.items():
            product = self.product(name)
            if product:
                own = product.shapes
            else:
                vector, g = (self.vectors, self.lanes), self.geometry
                own = {"weight": (self.vectors, g.r, g.s, self.lanes), "bias": vector}
                own |= {"slope": vector} if Epilogue.of(part).is_prelu else {}
            shapes |= {f"{name}.{key}": shape for key, shape in own.items()}
        return shapes | {"y": y}


class BandKernel:
    """Writes the kernel of one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.g, self.k, self.v = plan, plan.geometry, Kernel(), plan.lanes
        self.expand, self.project = plan.product("expand"), plan.product("project")
        self.rows, self.bands = int(plan.variant["rows"]), int(plan.variant["bands"])
        self.epilogue = Epilogue.of(plan.parts["depthwise"])
        g = self.g
        self.window = Window((g.r, g.s), g.strides, g.dilation, g.padding[:2], (g.h, g.w), (g.oh, g.ow))
        if self.expand:  # the ring buffer holds the padding
            self.window = Window((g.r, g.s), g.strides, g.dilation, (0, 0), (plan.slots, plan.width), (self.rows, g.ow))
        self.columns = tile_columns(plan.device, self.window, g.s)
        self.buffers: dict[str, Any] = {}
        self.ring: Any = None
        self.middle: Any = None

    def emit(self) -> Any:
        """The PrimFunc: x, [residual], the parts' packed weights, y."""
        k, g, plan = self.k, self.g, self.plan
        shapes = plan.shapes
        with k:
            named = ((name.replace(".", "_"), shape) for name, shape in shapes.items())
            self.buffers = dict(zip(shapes, k.arguments(*named), strict=True))
            tasks = g.n * self.bands
            with k.loop(tasks, parallel=plan.device.threads > 1 and tasks > 1) as task:
                if self.expand:
                    self.ring = k.scratch(plan.vectors * plan.slots * plan.width * self.v)
                    self._clear_borders()
                if self.project:
                    self.middle = k.scratch(plan.vectors * self.rows * g.ow * self.v)
                self._band(task // self.bands, task % self.bands)
        return k.function

    def _own(self, name: str) -> dict[str, Any]:
        """The packed weights of a part."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): b for key, b in self.buffers.items() if key.startswith(prefix)}

    def _clear(self, at: Expr, columns: int) -> None:
        """Writes zeros into columns of the ring buffer."""
        with nest(columns) as (column,):
            self.k.store(self.ring, at + column * self.v, self.k.splat(0.0, self.v), self.v)

    def _clear_borders(self) -> None:
        """Zeros left and right of every row of the ring buffer; no row of the map overwrites them."""
        left, inside = self._inside()
        with nest(self.plan.vectors * self.plan.slots) as (row,):
            at = row * (self.plan.width * self.v)
            if left:
                self._clear(at, left)
            if left + inside < self.plan.width:
                self._clear(at + (left + inside) * self.v, self.plan.width - left - inside)

    def _inside(self) -> tuple[int, int]:
        """Columns of padding on the left, and columns of the map, in a row of the ring buffer."""
        left = min(self.g.padding[1], self.plan.width)
        return left, min(self.g.w, self.plan.width - left)

    def _band(self, n: Expr, band: Expr) -> None:
        """One band of output rows, `rows` at a time; the last step may compute some rows again."""
        k, g, rows = self.k, self.g, self.rows
        first, last, steps = 0, g.oh, ceil_div(g.oh, rows)
        if self.bands > 1:
            first, last = k.bind(band * g.oh // self.bands), k.bind((band + 1) * g.oh // self.bands)
            steps = k.bind((last - first + (rows - 1)) // rows)
        with nest(steps) as (step,):
            is_even = self.bands == 1 and g.oh % rows == 0
            y = k.bind(first + step * rows if is_even else T.min(first + step * rows, last - rows))
            top = k.bind(y * g.strides[0] - g.padding[0])
            begin: Expr = top
            if not (isinstance(steps, int) and steps == 1):
                before = (first + step * rows - rows) * g.strides[0] - g.padding[0]
                begin = k.bind(T.Select(step == 0, top, before + self.plan.slots))
            for_each_group(k, self._groups(), 0, 1, partial(self._group, n, y, top, begin))
            if self.project:
                self._project(n, y)

    def _groups(self) -> Split:
        """Channel vectors that are expanded together."""
        return self.expand.groups if self.expand else ((self.plan.vectors, 1),)

    def _slot(self, row: Expr) -> Expr:
        """Where a row of the expanded map lies in the ring buffer."""
        slots, above = self.plan.slots, self.g.padding[0]
        return (row + ceil_div(above, slots) * slots) % slots

    def _group(self, n: Expr, y: Expr, top: Expr, begin: Expr, size: int, start: Expr) -> None:
        """Expands the missing rows of some channel vectors, then convolves these."""
        k = self.k
        if self.expand:
            with k.loop(top + self.plan.slots - begin) as i:
                row = k.bind(begin + i)
                at = k.bind((start * self.plan.slots + self._slot(row)) * (self.plan.width * self.v))
                expand, clear = partial(self._expand, n, row, at, size, start), partial(self._clear_row, at, size)
                k.when(all_of(row >= 0, row < self.g.h) if any(self.g.padding[::2]) else True, expand, clear)
        with nest(size, self.rows) as (j, row):
            self._depthwise(n, start + j, y + row, row)

    @property
    def _plane(self) -> int:
        """Elements of a channel vector in the ring buffer."""
        return self.plan.slots * self.plan.width * self.v

    def _clear_row(self, at: Expr, size: int) -> None:
        """A row of padding."""
        for j in range(size):
            self._clear(at + j * self._plane, self.plan.width)

    def _expand(self, n: Expr, row: Expr, at: Expr, size: int, start: Expr) -> None:
        """A row of some channel vectors, from x into the ring buffer."""
        assert self.expand is not None
        x, (left, inside) = self.plan.source, self._inside()
        for first, width in self._tiles(inside, self.expand.widest(size)):

            def place(i: Expr, j: int, lane: int, first: Expr = first) -> tuple[Expr, Expr]:
                return at + j * self._plane + (left + first + i) * self.v + lane, True

            source = self.k.bind(x.offset(n, 0, row, first))
            store = Store(self.ring, self.v, place)
            own = self._own("expand")
            self.expand.tile(self.k, own, self.buffers["x"], source, x.plane, (size, start), width, store)

    @staticmethod
    def _tiles(extent: int, widest: int) -> Iterator[tuple[Expr, int]]:
        """Emits the loops over tiles of an extent; gives the first position and the width of each."""
        begin = 0
        for count, width in split_evenly(extent, widest):
            with nest(count) as (t,):
                yield begin + t * width, width
            begin += count * width

    def _depthwise(self, n: Expr, vector: Expr, y: Expr, row: Expr) -> None:
        """One output row of one channel vector."""
        k, v, own = self.k, self.v, self._own("depthwise")
        window = self.window
        _, begin, end = window.rows(y)
        for columns, x0 in sweep(k, window, self.columns):
            sums = k.scratch(columns.width * v)
            bias = k.bind(k.load(own["bias"], vector * v, v))
            for i in range(columns.width):
                k.store(sums, i * v, bias, v)
            with k.loop(end - begin) as i:
                self._row_of_taps(own, sums, columns, n, vector, y, x0, k.bind(begin + i))
            self._finish(own, sums, columns.width, n, vector, (y, row), x0)

    def _row_of_taps(
        self, own: dict[str, Any], sums: Any, columns: Columns, n: Expr, vector: Expr, y: Expr, x0: Expr, r: Expr
    ) -> None:
        """Adds what one row of the kernel contributes to a tile."""
        k, g, v, x = self.k, self.g, self.v, self.plan.source
        taps = k.bind((vector * g.r + r) * (g.s * v))
        w = [k.bind(k.load(own["weight"], taps + s * v, v)) for s in range(g.s)]
        line, left = y * g.strides[0] - g.padding[0] + r * g.dilation[0], self.window.left(x0)
        if self.expand:
            place = (vector * self.plan.slots + self._slot(line)) * self.plan.width + left
            buffer, at, step = self.ring, k.bind(place * v), v
        else:
            buffer, at, step = self.buffers["x"], k.bind(x.offset(n, vector, line, left)), x.block
        for column, fed in self.window.feeds(columns):
            value = k.bind(k.load(buffer, at + column * step, v))
            for i, s in fed:
                k.store(sums, i * v, k.load(sums, i * v, v) + value * w[s], v)

    def _finish(
        self, own: dict[str, Any], sums: Any, width: int, n: Expr, vector: Expr, rows: tuple[Expr, Expr], x0: Expr
    ) -> None:
        """Activates a tile of the depthwise convolution and stores it for the projection, or into y."""
        k, g, v = self.k, self.g, self.v
        buffer, at = self.buffers["y"], self.plan.target.offset(n, vector, rows[0], x0)
        if self.project:
            buffer, at = self.middle, ((vector * self.rows + rows[1]) * g.ow + x0) * v

        def put(i: Expr) -> None:
            value = self.epilogue.finish(k.load(sums, i * v, v), v, None, lambda: k.load(own["slope"], vector * v, v))
            k.store(buffer, at + i * v, value, v)

        if self.epilogue.activation.name in CHEAP:
            for i in range(width):
                put(i)
            return
        for i in range(width):
            k.store(buffer, at + i * v, k.load(sums, i * v, v), v)
        with nest(width) as (i,):
            offset = k.bind(at + i * v)
            value = self.epilogue.finish(k.load(buffer, offset, v), v, None, None)
            k.store(buffer, offset, value, v)

    def _project(self, n: Expr, y: Expr) -> None:
        """The rows of the step, from the middle buffer into y."""
        assert self.project is not None
        for_each_group(self.k, self.project.groups, 0, 1, partial(self._project_group, n, y))

    def _project_group(self, n: Expr, y: Expr, size: int, start: Expr) -> None:
        assert self.project is not None
        k, target, positions = self.k, self.plan.target, self.rows * self.g.ow
        lanes = self.project.lanes
        part = min(lanes, target.block)
        per = lanes // part
        for first, width in self._tiles(positions, self.project.widest(size)):

            def place(i: Expr, j: int, lane: int, first: Expr = first) -> tuple[Expr, Expr]:
                block = (start + j) * per + lane // part
                exists = True if lane == 0 or target.blocks % per == 0 else block < target.blocks
                return target.offset(n, block, y, first + i), exists

            store = Store(self.buffers["y"], part, place, self.buffers.get("residual"))
            at, plane = k.bind(first * self.v), positions * self.v
            self.project.tile(k, self._own("project"), self.middle, at, plane, (size, start), width, store)
