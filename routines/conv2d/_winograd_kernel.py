"""Code of the Winograd convolution: input transform, products, output transform, one band of tiles at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Variant

from .._blocked import Blocked, Epilogue
from .._lanes import Rows, rows_together, tallest_tile
from .._tir import Expr, Kernel, all_of, cache_line, ceil_div
from ._tiles import nest, split_evenly
from ._winograd_matrices import winograd_matrices
from ._winograd_plan import UNROLL, Plan
from ._winograd_transforms import apply_matrix


def write_kernel(
    workload: Workload,
    variant: Variant,
    device: Device,
    writer_of: Callable[..., BandWriter] | None = None,
    output: Blocked | None = None,
) -> Any:
    """The PrimFunc of a variant: x, [residual], weight, bias, [slope], y.

    Args:
        workload: A convolution.
        variant: Parameters.
        device: Gives registers.
        writer_of: Makes what writes the body, from the arguments of `BandWriter`; that one by default.
        output: The map that is written if it is not the convolution's.
    """
    p, epilogue = Plan.of(workload, variant), Epilogue.of(workload)
    written, vector = output or p.y, (p.y.blocks * p.lanes,)
    y = physical_shape(written.shape, written.layout)
    shapes = {"x": physical_shape(p.x.shape, p.x.layout), "residual": y, "weight": (p.weight_elements,)}
    shapes |= {"bias": vector, "slope": vector, "y": y}
    if not epilogue.residual:
        del shapes["residual"]
    if not epilogue.is_prelu:
        del shapes["slope"]
    by_bands, by_channels = (p.threads > 1 and p.grain == grain for grain in ("bands", "channels"))
    with Kernel() as k:
        buffers = dict(zip(shapes, k.arguments(*shapes.items()), strict=True))
        with k.loop(p.bands[0] * p.bands[1], by_bands) as band:
            v = k.scratch(p.points * p.v_stride)
            writer = (writer_of or BandWriter)(k, p, epilogue, device.vector_registers, buffers, v, band)
            rows = None if by_channels else k.scratch(p.tile[0] * p.row_stride)
            with k.loop(p.x.blocks * p.phases[0] * p.rows, by_channels) as part:
                scratch = k.scratch(p.tile[0] * p.row_stride) if rows is None else rows
                plane, row = k.bind(part // p.rows), k.bind(part % p.rows)
                phase = k.bind(plane % p.phases[0]) if p.phases[0] > 1 else 0
                writer.transform_input(scratch, k.bind(plane // p.phases[0]), phase, row)
            with k.loop(sum(count for count, _ in p.blocks), by_channels) as block:
                writer.convolve(block)
    return k.function


@dataclass(frozen=True)
class _Place:
    """Where a row of tiles lies.

    Args:
        image: Image of the batch.
        phase: Which of the rows, and of the columns, that dilation keeps apart.
        row: Tile row of the phase.
    """

    image: Expr
    phase: tuple[Expr, Expr]
    row: Expr


@dataclass
class BandWriter:
    """Writes the body of the loop over bands.

    Args:
        k: The kernel that is being written.
        p: Sizes.
        epilogue: What happens to outputs.
        registers: Vector registers of the device.
        buffers: The kernel's arguments by name.
        v: Transformed input of the band, [point][phase][C / lanes][tile][lanes].
        band: Its number.
    """

    k: Kernel
    p: Plan
    epilogue: Epilogue
    registers: int
    buffers: Mapping[str, Any]
    v: Any
    band: Expr

    def __post_init__(self) -> None:
        k, p = self.k, self.p
        self.down, self.along = (winograd_matrices(m, r) for m, r in zip(p.m, p.taps, strict=True))
        across = p.bands[1]
        # the last band overlaps the one before instead of being smaller: it computes the same values again
        self.row = k.bind(T.min(self.band // across * p.rows, p.all_rows - p.rows))
        self.column = T.min(self.band % across * p.columns, p.grid_columns - p.columns) if across > 1 else 0
        self.column = k.bind(self.column) if across > 1 else 0

    def _locate(self, i: Expr) -> _Place:
        """Where the band's tile row i lies."""
        k, p, row = self.k, self.p, self.k.bind(self.row + i)
        (down, across), phases = p.dilation, prod(p.dilation)
        if p.y.shape[0] * phases == 1:
            return _Place(0, (0, 0), row)
        grid, row = k.bind(row // p.grid_rows), k.bind(row % p.grid_rows)
        if phases == 1:
            return _Place(grid, (0, 0), row)
        return _Place(k.bind(grid // phases), (k.bind(grid // across % down), k.bind(grid % across)), row)

    def transform_input(self, rows: Any, channel_block: Expr, phase: Expr, i: Expr) -> None:
        """Transforms tile row i: its columns, once for all the tiles that share one, and then the rows of each tile.

        Args:
            rows: Scratch for the columns, [tile][column][lanes].
            channel_block: Which vector of channels.
            phase: Which phase of the input's rows.
            i: Tile row of the band.
        """
        k, p, lanes = self.k, self.p, self.p.lanes
        place, (dy, dx) = self._locate(i), (p.step[0], p.column_step)
        target = k.bind(channel_block * (p.tiles * lanes) + i * (p.columns * lanes))
        is_column = p.tile[1] == p.phases[1] == 1  # then there is nothing to do along the rows
        first_out = target + phase * p.phase_stride if is_column else 0
        out, stride = (self.v, p.v_stride) if is_column else (rows, p.row_stride)
        top = place.row * (p.m[0] * dy) + place.phase[0] + phase - p.padding[0]
        start = k.bind(self.column * (p.m[1] * p.step[1]) + place.phase[1] - p.padding[1])
        low, high = self._inside(start, p.width, dx, p.x.shape[3])
        for first, count in ((0, low), (high, p.width - high)):
            with k.loop(count) as x:
                for r in range(p.tile[0]):
                    k.store(out, first_out + r * stride + (first + x) * lanes, k.splat(0.0, lanes), lanes)
        base = k.bind(p.x.offset(place.image, channel_block, top, start + low * dx))

        def transform_columns(inside: range) -> None:
            with k.loop(high - low) as x:
                at = k.bind(base + x * (lanes * dx))
                column = [self._load("x", at + r * (p.x.row * dy)) if r in inside else None for r in range(p.tile[0])]
                for r, value in enumerate(apply_matrix(k, self.down.bt, column, lanes)):
                    k.store(out, first_out + r * stride + (low + x) * lanes, value, lanes)

        cases = _rows_inside(p)
        if dy == 1:
            self._choose([(place.row < end, inside) for end, inside in cases], transform_columns)
        else:
            first, end = self._inside(k.bind(top), p.tile[0], dy, p.x.shape[2])
            different = sorted({inside for _, inside in cases}, key=len, reverse=True)  # an empty one comes last
            matches = [(all_of(first == inside.start, end == inside.stop), inside) for inside in different]
            self._choose(matches, transform_columns)
        if is_column:
            return
        (_, across), (_, full) = p.phases, p.full
        with k.loop(p.tile[0] - self._missing(phase)) as r, k.loop(p.columns) as t:
            at = k.bind(r * p.row_stride + t * (p.m[1] * across * lanes))
            to = k.bind(r * (p.tile[1] * p.v_stride) + target + t * lanes)
            for column_phase in range(across):
                used = p.tile[1] if column_phase < full else p.tile[1] - 1
                places = [at + (j * across + column_phase) * lanes for j in range(used)]
                row = [k.bind(k.load(rows, offset, lanes)) for offset in places] + [None] * (p.tile[1] - used)
                for j, value in enumerate(apply_matrix(k, self.along.bt, row, lanes)[:used]):
                    number = phase * (across if j < p.tile[1] - 1 else full) + column_phase
                    k.store(self.v, to + j * p.v_stride + number * p.phase_stride, value, lanes)

    def _missing(self, phase: Expr) -> Expr:
        """1 if a phase of the input's rows is not needed at the last of the points."""
        full = self.p.full[0]
        return 0 if self.p.phases[0] == full else T.Select(phase < full, 0, 1)

    def _load(self, name: str, offset: Expr) -> Expr:
        """Names a vector of an argument."""
        return self.k.bind(self.k.load(self.buffers[name], offset, self.p.lanes))

    def _inside(self, start: Expr, count: int, step: int, extent: int) -> tuple[Expr, Expr]:
        """Which of `count` positions from `start`, `step` apart, lie in an extent: first, and behind the last."""
        k = self.k
        if step == 1:
            return k.bind(T.max(0, 0 - start)), k.bind(T.min(count, extent - start))
        first = k.bind(T.min(count, T.max(0, (step - 1 - start) // step)))
        return first, k.bind(T.max(first, T.min(count, (extent + step - 1 - start) // step)))

    def _choose(self, cases: Sequence[tuple[Expr, range]], body: Callable[[range], None]) -> None:
        """Emits `body` for the first case whose condition holds; the last one is what is left."""
        (condition, inside), *others = cases
        self.k.when(condition if others else True, partial(body, inside), partial(self._choose, others, body))

    def convolve(self, block: Expr) -> None:
        """Products and output transform of one block of output channels."""
        k, p = self.k, self.p
        (count, wide), *narrower = p.blocks
        for_wide = partial(self._convolve_vectors, k.bind(block * wide), wide)
        if not narrower:
            for_wide()
            return
        narrow = narrower[0][1]
        first = k.bind(count * wide + (block - count) * narrow)
        k.when(block < count, for_wide, partial(self._convolve_vectors, first, narrow))

    def _convolve_vectors(self, first: Expr, vectors: int) -> None:
        k, p, lanes = self.k, self.p, self.p.lanes
        products = k.scratch(p.points * p.m_stride)
        size = p.channels * vectors * lanes
        with k.loop(p.points) as point:
            before, phases = self._phases_at(point)
            u = k.bind(first * (p.terms * p.channels * lanes) + before * size)
            self._multiply(products, k.bind(point * p.v_stride), u, k.bind(point * p.m_stride), phases, vectors)
        with k.loop(p.rows) as i:
            place = self._locate(i)
            with k.loop(p.columns) as t, k.loop(vectors) as j:
                source = k.bind(((i * p.columns + t) * vectors + j) * lanes)
                self._transform_output(products, source, k.bind(first + j), place, k.bind(self.column + t))

    def _phases_at(self, point: Expr) -> tuple[Expr, Expr]:
        """Phases of the input at all points before one, and at that one."""
        k, (down, across), (full_down, full_across), (height, width) = self.k, self.p.phases, self.p.full, self.p.tile
        if self.p.phases == self.p.full:
            return point * (down * across), down * across
        i, j = k.bind(point // width), k.bind(point % width)
        rows = k.bind(T.Select(i < height - 1, down, full_down))
        columns = T.Select(j < width - 1, across, full_across)
        in_row = (width - 1) * across + full_across
        return k.bind(i * (down * in_row) + rows * j * across), k.bind(rows * columns)

    def _multiply(self, products: Any, v: Expr, u: Expr, m: Expr, phases: Expr, vectors: int) -> None:
        """``M[tile, k] = sum_c V[c, tile] * U[c, k]`` from the offsets v, u, m; prefetches the U that follows."""
        k, p, lanes = self.k, self.p, self.p.lanes
        bodies, per_block = p.channels // UNROLL, lanes // UNROLL
        splits = split_evenly(p.tiles, tallest_tile(vectors, self.registers, rows_together(lanes, self.registers)))
        passes = sum(count for count, _ in splits)
        lines = ceil_div(UNROLL * vectors * lanes, cache_line())
        following = k.bind(u + phases * (p.channels * vectors * lanes))
        first = 0
        for count, width in splits:
            share = ceil_div(lines, passes)  # cache lines of the next U that a body asks for
            with k.loop(count) as piece:
                start = k.bind(first + piece * width)
                # one small buffer for each tile: larger ones would not be promoted to registers
                sums = [k.scratch(vectors * lanes) for _ in range(width)]
                for row in sums:
                    for j in range(vectors):
                        k.store(row, j * lanes, k.splat(0.0, lanes), lanes)
                with nest(phases, bodies) as (phase, body):
                    number = k.bind(phase * bodies + body)
                    ahead = k.bind(following + (piece * phases * bodies + number) * (share * cache_line()))
                    for line in range(share):
                        k.prefetch(self.buffers["weight"], ahead + line * cache_line())
                    at = phase * p.phase_stride + body // per_block * (p.tiles * lanes) + body % per_block * UNROLL
                    at = k.bind(v + start * lanes + at)
                    self._accumulate(sums, at, k.bind(u + number * (UNROLL * vectors * lanes)), vectors)
                at = k.bind(m + start * (vectors * lanes))
                for i, row in enumerate(sums):
                    for j in range(vectors):
                        value = k.load(row, j * lanes, lanes)
                        k.store(products, at + (i * vectors + j) * lanes, value, lanes)
            first += count * width
            passes -= count
            lines = max(0, lines - count * share)
            following = following + phases * (count * share * bodies * cache_line())

    def _accumulate(self, sums: Sequence[Any], v: Expr, u: Expr, vectors: int) -> None:
        """Adds the products of `UNROLL` input channels."""
        k, lanes = self.k, self.p.lanes
        starts = [v + i * lanes for i in range(len(sums))]
        rows = Rows(self.v, starts, 1, rows_together(lanes, self.registers))
        for c in range(UNROLL):
            weights = [self._load("weight", u + (c * vectors + j) * lanes) for j in range(vectors)]
            for i, row in enumerate(sums):
                # named, so that LLVM loads it once instead of in each multiply-add
                value = k.bind(rows.broadcast(i, c, UNROLL, lanes))
                for j, weight in enumerate(weights):
                    k.store(row, j * lanes, k.load(row, j * lanes, lanes) + value * weight, lanes)

    def _transform_columns(self, products: Any, source: Expr) -> list[Any]:
        """Transforms the columns of one tile of products; gives a buffer for each of the tile's output rows."""
        k, p, lanes = self.k, self.p, self.p.lanes
        half = [k.scratch(p.tile[1] * lanes) for _ in range(p.m[0])]
        for j in range(p.tile[1]):
            points = [source + (r * p.tile[1] + j) * p.m_stride for r in range(p.tile[0])]
            column = [k.bind(k.load(products, offset, lanes)) for offset in points]
            for r, value in enumerate(apply_matrix(k, self.down.at, column, lanes)):
                k.store(half[r], j * lanes, value, lanes)
        return half

    def _transform_row(self, half: Any) -> list[Expr]:
        """Transforms one of these rows into sums without bias."""
        k, lanes = self.k, self.p.lanes
        row = [k.bind(k.load(half, j * lanes, lanes)) for j in range(self.p.tile[1])]
        return apply_matrix(k, self.along.at, row, lanes)

    def _transform_output(self, products: Any, source: Expr, vector: Expr, place: _Place, tile_column: Expr) -> None:
        """Transforms columns, then rows, of one tile of one vector of output channels, and finishes the outputs."""
        k, p, lanes = self.k, self.p, self.p.lanes
        half = self._transform_columns(products, source)
        bias = self._load("bias", vector * lanes)
        slope = self._load("slope", vector * lanes) if self.epilogue.is_prelu else None
        (dy, dx), (_, _, height, width) = p.dilation, p.y.shape
        top = place.row * (p.m[0] * dy) + place.phase[0]
        left = tile_column * (p.m[1] * dx) + place.phase[1]
        target = k.bind(p.y.offset(place.image, vector, top, left))

        def finish(r: int) -> None:
            values = self._transform_row(half[r])

            def store(columns: range) -> None:
                for j in columns:
                    offset = target + r * (p.y.row * dy) + j * (lanes * dx)
                    residual = partial(self._load, "residual", offset)
                    result = self.epilogue.finish(values[j] + bias, lanes, residual, lambda: slope)
                    k.store(self.buffers["y"], offset, result, lanes)

            always = max(0, width // dx - (p.grid_columns - 1) * p.m[1])
            store(range(min(always, p.m[1])))
            if dx > 1:
                for j in range(always, p.m[1]):
                    k.when(left + j * dx < width, partial(store, range(j, j + 1)))
            elif always < p.m[1] and p.grid_columns > 1:
                k.when(tile_column < p.grid_columns - 1, partial(store, range(always, p.m[1])))

        last = p.grid_rows - 1
        for r in range(p.m[0]):
            # outputs of the last tile row that lie below the map are left out
            below = last * p.m[0] + r >= height // dy
            inside = top + r * dy < height if dy > 1 else last > 0 and place.row < last
            k.when(True if not below else inside, partial(finish, r))


def _rows_inside(p: Plan) -> list[tuple[int, range]]:
    """Which rows of a tile lie inside the input: pairs (tile row of a phase before which that holds, rows)."""
    cases: list[tuple[int, range]] = []
    step = p.step[0]
    for phase in range(p.dilation[0] * p.phases[0]):
        for tile_row in range(p.grid_rows):
            top = tile_row * p.m[0] * step + phase - p.padding[0]
            inside = [r for r in range(p.tile[0]) if 0 <= top + r * step < p.x.shape[2]]
            rows = range(inside[0], inside[-1] + 1) if inside else range(0)
            if cases and cases[-1][1] == rows:
                cases.pop()
            cases.append((tile_row + 1, rows))
    return cases
