"""Sizes of a Winograd kernel, and which of them are worth measuring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from softneuro_tvm.device import Device
from softneuro_tvm.errors import RoutineError
from softneuro_tvm.formats import Format
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Parameter, Variant

from .._blocked import Blocked
from .._tir import cache_line, ceil_div, element, round_up
from ._tiles import Split, split_evenly
from ._winograd_matrices import LARGEST_TILE, amplification

TILES = (4, 6, 8, 10)
"""The m + r - 1 that are offered: even ones have no point without an opposite."""

ERROR = {"float32": 6.5e-7, "float16": 3e-3}
"""Error bound with up to 64 input channels for each unit of amplification: two to three times what was found."""

LARGEST_ERROR = {"float32": 1.3e-4, "float16": 2e-2}
"""Tiles with a larger bound are not offered: beyond it the rounding error grows faster than the gain."""

UNROLL = 4
"""Input channels in one body of the products' innermost loop."""

L3_BYTES_PER_CYCLE = 12
"""What one core streams from the last-level cache."""

MEMORY_BYTES_PER_CYCLE = 6
"""What one core streams from memory, where weights lie that other layers have driven out of the last-level cache."""

TRANSFORM_CYCLES = 10
"""What each vector of V and of M costs in the transforms and, as it leaves the first-level cache, in the products."""

WORTHWHILE = 0.9
"""Share of the direct algorithm's multiply-adds that a strided layer's estimated time must not exceed."""

PROMISING = 1.5
"""A tile size is left out if its estimate is this much slower than the best one's."""

PROMISING_LINE = 1.3
"""The same for kernels of one row or column, whose estimates are closer."""

MOST_PLANS = 4
"""Plans for one number of threads."""

GRAINS = ("bands", "channels")
"""What threads may share."""

Pair = tuple[int, int]
"""A size of rows and one of columns."""


def spread(elements: int) -> int:
    """Rounds a stride up to an odd number of cache lines, so that parallel streams fall into different cache sets."""
    return (ceil_div(elements, cache_line()) | 1) * cache_line()


def kernel_extents(workload: Workload) -> Pair:
    """Rows and columns of the weights."""
    r, s = workload.weight_types["weight"].shape[2:]
    return r, s


def longest_taps(kernel: Pair, stride: Pair) -> Pair:
    """Extents of the kernel that the first phase of the input meets."""
    return ceil_div(kernel[0], stride[0]), ceil_div(kernel[1], stride[1])


def as_parameter(m: Pair) -> Parameter:
    """Outputs of a tile as users read them: ``4`` for 4 x 4, ``1x4`` for one row of four."""
    return m[0] if m[0] == m[1] else f"{m[0]}x{m[1]}"


def _parse(m: Parameter) -> Pair:
    """The inverse of `as_parameter`."""
    rows, by, columns = str(m).partition("x")
    return int(rows), int(columns if by else rows)


@dataclass(frozen=True)
class Plan:
    """Sizes of one kernel; pairs are (rows, columns).

    A dilated convolution is one without dilation on each of the grids (phases) of every d-th row and column. Each phase
    of each image has a row of tiles for m[0] of its output rows.

    A strided convolution is the sum of one with stride 1 for each of the input's grids (its phases, too) of every s-th
    row and column: their channels are further terms of the same sums. A phase meets every s-th tap of the kernel.

    Args:
        m: Outputs of a tile.
        kernel: Extents of the kernel.
        x: Input feature map.
        y: Output feature map.
        padding: Zeros above and left of the input.
        stride: Distance in the input of neighbouring outputs.
        dilation: Distance of the taps; 1 where there is one tap.
        rows: Tile rows of a band; bands may run from one image, or phase, into the next.
        columns: Tile columns of a band.
        vectors: Largest number of vectors in a block of output channels.
        grain: What threads share: ``bands``, or ``channels`` (blocks of input, then of output channels) of each band.
        threads: Threads that share the work.
    """

    m: Pair
    kernel: Pair
    x: Blocked
    y: Blocked
    padding: Pair
    stride: Pair
    dilation: Pair
    rows: int
    columns: int
    vectors: int
    grain: str
    threads: int

    @staticmethod
    def of(workload: Workload, variant: Variant) -> Plan:
        """The plan of a variant.

        Raises:
            RoutineError: Its layouts or parameters do not fit the workload.
        """
        given, ports = dict(variant.params), sorted({*variant.inputs, *variant.outputs})
        try:
            plan = Plan._of(workload, ports[0].layout, **given | {"m": _parse(given["m"])})
            fault = plan._fault()
        except (KeyError, TypeError, ValueError):
            fault = "it needs m (4, or 1x4 for rows x columns), rows, columns, vectors, grain and threads"
        blocks = (4, 8, 16) if element() == "float32" else (8, 16, 32)
        if ports not in [[Format(f"NCHW{c}c", element())] for c in blocks]:
            fault = f"all its feature maps are {element()} in {', '.join(f'NCHW{c}c' for c in blocks)}"
        if fault:
            raise RoutineError(
                f"conv2d/winograd cannot compute {workload} with {variant.params_text} "
                f"in {', '.join(map(str, ports))}: {fault}. Use parameters that `Winograd.variants` yields, "
                "or tune the layer anew."
            )
        return plan

    def _fault(self) -> str | None:
        """What is wrong with parameters that do not come from `promising_plans`."""
        if any(m < 1 or tile > LARGEST_TILE for m, tile in zip(self.m, self.tile, strict=True)):
            return f"m must be at least 1, and m + kernel / stride - 1 at most {LARGEST_TILE}, for rows and for columns"
        limits = {"rows": self.all_rows, "columns": self.grid_columns, "vectors": self.y.blocks, "threads": 1 << 10}
        for name, limit in limits.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= limit:
                return f"{name} must be a whole number from 1 to {limit}"
        return None if self.grain in GRAINS else f"grain must be one of {', '.join(GRAINS)}"

    @staticmethod
    def _of(workload: Workload, layout: str, **params: Any) -> Plan:
        top, left, _, _ = workload.attributes.padding
        x, y = Blocked(workload.inputs[0].shape, layout), Blocked(workload.outputs[0].shape, layout)
        kernel, stride, (dy, dx) = kernel_extents(workload), workload.attributes.strides, workload.attributes.dilation
        dilation = (1 if kernel[0] == 1 else dy, 1 if kernel[1] == 1 else dx)
        return Plan(kernel=kernel, x=x, y=y, padding=(top, left), stride=stride, dilation=dilation, **params)

    @property
    def params(self) -> tuple[tuple[str, Parameter], ...]:
        """The variant's parameters."""
        names = ("rows", "columns", "vectors", "grain", "threads")
        return (("m", as_parameter(self.m)), *((name, getattr(self, name)) for name in names))

    @property
    def taps(self) -> Pair:
        """Extents of the longest kernel of a phase of the input."""
        return longest_taps(self.kernel, self.stride)

    @property
    def phases(self) -> Pair:
        """Phases of the input whose products are summed."""
        return min(self.kernel[0], self.stride[0]), min(self.kernel[1], self.stride[1])

    @property
    def full(self) -> Pair:
        """Phases, the first ones, with the longest kernel; that of the others has a zero at the tile's last point."""
        (r, s), (rows, columns), (down, across) = self.kernel, self.taps, self.stride
        return r - (rows - 1) * down, s - (columns - 1) * across

    @property
    def step(self) -> Pair:
        """Distance in the input of the rows (columns) of a tile."""
        return self.stride[0] * self.dilation[0], self.stride[1] * self.dilation[1]

    @property
    def tile(self) -> Pair:
        """Rows and columns of a tile in one phase of the input."""
        return self.m[0] + self.taps[0] - 1, self.m[1] + self.taps[1] - 1

    @property
    def points(self) -> int:
        """Points of a tile."""
        return prod(self.tile)

    @property
    def terms(self) -> int:
        """Multiplications of a tile, for each pair of channels: each point has one for each phase not zero there."""
        return prod(t * n - (n - full) for t, n, full in zip(self.tile, self.phases, self.full, strict=True))

    @property
    def lanes(self) -> int:
        """Channels of a vector."""
        return self.y.block

    @property
    def channels(self) -> int:
        """Input channels that are multiplied, padded to whole loop bodies."""
        return round_up(self.x.shape[1], UNROLL)

    @property
    def grid_rows(self) -> int:
        """Tile rows of one phase of one image."""
        return ceil_div(ceil_div(self.y.shape[2], self.dilation[0]), self.m[0])

    @property
    def all_rows(self) -> int:
        """Tile rows of the batch."""
        return self.y.shape[0] * prod(self.dilation) * self.grid_rows

    @property
    def grid_columns(self) -> int:
        """Tile columns of one phase."""
        return ceil_div(ceil_div(self.y.shape[3], self.dilation[1]), self.m[1])

    @property
    def bands(self) -> Pair:
        """Bands in each direction; the last one may overlap the one before."""
        return ceil_div(self.all_rows, self.rows), ceil_div(self.grid_columns, self.columns)

    @property
    def tiles(self) -> int:
        """Tiles of a band."""
        return self.rows * self.columns

    @property
    def blocks(self) -> Split:
        """Blocks of output channels: pairs (count, vectors)."""
        return split_evenly(self.y.blocks, self.vectors)

    @property
    def width(self) -> int:
        """Input columns of a band, `column_step` apart."""
        return (self.columns * self.m[1] + self.taps[1] - 2) * self.phases[1] + self.full[1]

    @property
    def column_step(self) -> int:
        """Distance of the input columns that are read: those of all phases."""
        return self.step[1] // self.phases[1]

    @property
    def row_stride(self) -> int:
        """Elements from one row to the next of a tile row whose columns are transformed."""
        return spread(self.width * self.lanes)

    @property
    def phase_stride(self) -> int:
        """Elements of one phase of a matrix of transformed input, [C / lanes, tiles, lanes]."""
        return self.x.blocks * self.tiles * self.lanes

    @property
    def v_stride(self) -> int:
        """Elements of one of the matrices of transformed input (V), [phases, C / lanes, tiles, lanes]."""
        return spread(prod(self.phases) * self.phase_stride)

    @property
    def m_stride(self) -> int:
        """Elements of one of the matrices of products (M), [tiles, output channels of a block]."""
        return spread(self.tiles * self.blocks[0][1] * self.lanes)

    @property
    def weight_elements(self) -> int:
        """Transformed weights (U), padding included."""
        return self.terms * self.channels * self.y.blocks * self.lanes

    @property
    def band_bytes(self) -> int:
        """V and M of one band."""
        return 4 * self.points * (self.v_stride + self.m_stride)

    @property
    def workspace_bytes(self) -> int:
        """V, M and one tile row, for each band or channel block in flight."""
        shared = 1 if self.grain == "channels" else self.threads
        private = self.points * self.m_stride + self.tile[0] * self.row_stride
        return 4 * (shared * self.points * self.v_stride + self.threads * private)

    @property
    def error(self) -> float:
        """Bound of the error with up to 64 input channels."""
        return ERROR[element()] * prod(amplification(m, r) for m, r in zip(self.m, self.taps, strict=True))

    def is_resident(self, device: Device) -> bool:
        """True if the weights stay in the second-level cache, beside a band."""
        return 4 * self.weight_elements <= device.l2_bytes * 5 // 8

    def cycles(self, device: Device) -> float:
        """Estimated time of one thread: products at two vectors a cycle or weights at the caches' rates; transforms."""
        bands = self.bands[0] * self.bands[1]
        tiles = bands * self.tiles
        products = tiles * self.terms * self.channels * self.y.blocks / 2
        weights = 4 * self.weight_elements
        rate = L3_BYTES_PER_CYCLE if weights <= device.l3_bytes // 8 else MEMORY_BYTES_PER_CYCLE
        times = 0 if weights <= device.l2_bytes // 2 else 1 if self.is_resident(device) else bands
        transforms = tiles * (self.terms * self.x.blocks + self.points * self.y.blocks)
        return max(products, times * weights / rate) + TRANSFORM_CYCLES * transforms


def _even_rows(total: int, limit: int, shares: int) -> int:
    """The most tile rows up to a limit with which bands come out even for `shares` threads, or nearly so."""
    counts = {rows: round_up(ceil_div(total, rows), shares) * rows for rows in range(1, min(limit, total) + 1)}
    least = min(counts.values())
    return max(rows for rows, count in counts.items() if count <= 1.05 * least)


def _banded(plan: Plan, budget: int, device: Device) -> Plan:
    """The plan with bands whose V and M fit a budget in bytes, and one tile row (or a part of it) at least."""
    shares = plan.threads if plan.grain == "bands" else 1
    whole = replace(plan, rows=1, columns=plan.grid_columns)
    parts = ceil_div(whole.band_bytes, max(budget, whole.band_bytes // whole.grid_columns))
    columns = ceil_div(whole.grid_columns, parts)
    rows = _even_rows(plan.all_rows, max(1, budget // whole.band_bytes), shares) if parts == 1 else 1
    return replace(plan, rows=rows, columns=columns)


def _tile_sizes(taps: Pair) -> Iterator[Pair]:
    """The m for tiles as large in both directions; one output in a direction in which the kernel does not extend."""
    for tile in TILES:
        m = tuple(1 if r == 1 else tile - r + 1 for r in taps)
        if all(count > 1 or r == 1 for count, r in zip(m, taps, strict=True)):
            yield m[0], m[1]


def promising_plans(workload: Workload, layout: str, device: Device, threads: int) -> Iterator[Plan]:
    """Plans worth measuring, best estimate first.

    For each m there are bands that live in the second-level cache, beside the weights if those fit too; and, because
    larger weights are streamed once for each band, bands as large as a part of the last-level cache. With few
    registers the best one comes with wider blocks of output channels, too (4 x 3 register tiles). None in float16 where
    all tiles are too inexact.
    """
    found: dict[Plan, float] = {}
    for m in _tile_sizes(longest_taps(kernel_extents(workload), workload.attributes.strides)):
        base = Plan._of(workload, layout, m=m, rows=1, columns=1, vectors=1, grain="bands", threads=threads)
        if base.error > LARGEST_ERROR[element()]:
            continue
        # two vectors in a block make 14 x 2 and 6 x 2 register tiles of 32 and 16 registers, 9 x 2 on NEON
        base = replace(base, vectors=min(base.y.blocks, 3 if base.y.blocks % 2 else 2))
        resident = base.is_resident(device)
        near = _banded(base, device.l2_bytes - (4 * base.weight_elements if resident else 0), device)
        far = _banded(replace(base, grain="channels" if threads > 1 else "bands"), device.l3_bytes // 4, device)
        for plan in (near,) if resident and threads == 1 else (near, far):
            found.setdefault(plan, plan.cycles(device))
    if not found:
        return
    limit = min(found.values()) * (PROMISING_LINE if 1 in kernel_extents(workload) else PROMISING)
    ordered = sorted((plan for plan in found if found[plan] <= limit), key=lambda plan: found[plan])[:MOST_PLANS]
    yield from ordered
    wide = replace(ordered[0], vectors=3)
    if device.vector_registers <= 16 and wide.blocks[0][1] == wide.vectors > ordered[0].vectors:
        yield wide


def is_worthwhile(workload: Workload, layout: str, device: Device) -> bool:
    """True if the best plan is estimated to be faster than the direct algorithm.

    With a stride of 2, 3x3 kernels save half of the multiply-adds at most, and large weights cost more than that.
    """
    best = next(promising_plans(workload, layout, device, 1))
    positions = prod(workload.outputs[0].shape) // workload.outputs[0].shape[1]
    direct = positions * best.y.blocks * workload.inputs[0].shape[1] * prod(best.kernel) / 2
    return best.cycles(device) <= WORTHWHILE * direct
