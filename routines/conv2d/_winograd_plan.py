"""Sizes of a Winograd kernel, and which of them are worth measuring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Parameter, Variant

from .._blocked import Blocked
from .._tir import ceil_div, round_up
from ._tiles import Split, split_evenly

TAPS = 3
"""Rows and columns of the kernel."""

TILE_OUTPUTS = (2, 4, 6)
"""The m that are offered: beyond 6 the rounding error grows faster than the gain."""

UNROLL = 4
"""Input channels in one body of the products' innermost loop."""

CACHE_LINE = 16
"""float32 elements of a cache line."""

L3_BYTES_PER_CYCLE = 12
"""What one core streams from the last-level cache."""

MEMORY_BYTES_PER_CYCLE = 6
"""What one core streams from memory, where weights lie that other layers have driven out of the last-level cache."""

PROMISING = 1.5
"""A tile size is left out if its estimate is this much slower than the best one's."""


def spread(elements: int) -> int:
    """Rounds a stride up to an odd number of cache lines, so that parallel streams fall into different cache sets."""
    return (ceil_div(elements, CACHE_LINE) | 1) * CACHE_LINE


@dataclass(frozen=True)
class Plan:
    """Sizes of one kernel. Each image of the batch has one row of tiles for each m rows of output.

    Args:
        m: Output rows and columns of a tile.
        x: Input feature map.
        y: Output feature map.
        top: Rows of zeros above the input.
        left: Columns of zeros left of it.
        rows: Tile rows of a band; bands may run from one image into the next.
        columns: Tile columns of a band.
        vectors: Largest number of vectors in a block of output channels.
        grain: What threads share: ``bands``, or ``channels`` (blocks of input, then of output channels) of each band.
        threads: Threads that share the work.
    """

    m: int
    x: Blocked
    y: Blocked
    top: int
    left: int
    rows: int
    columns: int
    vectors: int
    grain: str
    threads: int

    @staticmethod
    def of(workload: Workload, variant: Variant) -> Plan:
        """The plan of a variant."""
        return Plan._of(workload, variant.inputs[0].layout, **dict(variant.params))

    @staticmethod
    def _of(workload: Workload, layout: str, **params: Any) -> Plan:
        top, left, _, _ = workload.attributes.padding
        x, y = Blocked(workload.inputs[0].shape, layout), Blocked(workload.outputs[0].shape, layout)
        return Plan(x=x, y=y, top=top, left=left, **params)

    @property
    def params(self) -> tuple[tuple[str, Parameter], ...]:
        """The variant's parameters."""
        names = ("m", "rows", "columns", "vectors", "grain", "threads")
        return tuple((name, getattr(self, name)) for name in names)

    @property
    def tile(self) -> int:
        """Input rows and columns of a tile."""
        return self.m + TAPS - 1

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
        """Tile rows of one image."""
        return ceil_div(self.y.shape[2], self.m)

    @property
    def all_rows(self) -> int:
        """Tile rows of the batch."""
        return self.y.shape[0] * self.grid_rows

    @property
    def grid_columns(self) -> int:
        """Tile columns."""
        return ceil_div(self.y.shape[3], self.m)

    @property
    def bands(self) -> tuple[int, int]:
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
    def row_stride(self) -> int:
        """Elements from one row to the next of a tile row whose columns are transformed."""
        return spread((self.columns * self.m + TAPS - 1) * self.lanes)

    @property
    def v_stride(self) -> int:
        """Elements of one of the matrices of transformed input (V), [C / lanes, tiles, lanes]."""
        return spread(self.x.blocks * self.tiles * self.lanes)

    @property
    def m_stride(self) -> int:
        """Elements of one of the matrices of products (M), [tiles, output channels of a block]."""
        return spread(self.tiles * self.blocks[0][1] * self.lanes)

    @property
    def weight_elements(self) -> int:
        """Transformed weights (U), padding included."""
        return self.tile**2 * self.channels * self.y.blocks * self.lanes

    @property
    def band_bytes(self) -> int:
        """V and M of one band."""
        return 4 * self.tile**2 * (self.v_stride + self.m_stride)

    @property
    def workspace_bytes(self) -> int:
        """V, M and one tile row, for each band or channel block in flight."""
        shared = 1 if self.grain == "channels" else self.threads
        private = self.tile**2 * self.m_stride + self.tile * self.row_stride
        return 4 * (shared * self.tile**2 * self.v_stride + self.threads * private)

    def cycles(self, device: Device) -> float:
        """Rough time of one thread: products at two vectors a cycle or weights at the caches' rates; transforms."""
        bands = self.bands[0] * self.bands[1]
        steps = bands * self.tiles * self.tile**2
        products = steps * self.channels * self.y.blocks / 2
        weights = 4 * self.weight_elements
        rate = L3_BYTES_PER_CYCLE if weights <= device.l3_bytes // 8 else MEMORY_BYTES_PER_CYCLE
        streaming = 0 if weights <= device.l2_bytes // 2 else bands * weights / rate
        return max(products, streaming) + 2 * steps * (self.x.blocks + self.y.blocks)


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


def promising_plans(workload: Workload, layout: str, device: Device, threads: int) -> Iterator[Plan]:
    """Plans worth measuring, best estimate first.

    For each m there are bands that live in the second-level cache, beside the weights if those fit too; and, because
    larger weights are streamed once for each band, bands as large as a part of the last-level cache. With few
    registers the best one comes with wider blocks of output channels, too (4 x 3 register tiles).
    """
    found: dict[Plan, float] = {}
    for m in TILE_OUTPUTS:
        base = Plan._of(workload, layout, m=m, rows=1, columns=1, vectors=1, grain="bands", threads=threads)
        # two vectors in a block make 14 x 2 and 6 x 2 register tiles of 32 and 16 registers
        base = replace(base, vectors=min(base.y.blocks, 3 if base.y.blocks % 2 else 2))
        weights = 4 * base.weight_elements
        resident = weights <= device.l2_bytes * 5 // 8
        near = _banded(base, device.l2_bytes - (weights if resident else 0), device)
        far = _banded(replace(base, grain="channels" if threads > 1 else "bands"), device.l3_bytes // 4, device)
        for plan in (near,) if resident and threads == 1 else (near, far):
            found.setdefault(plan, plan.cycles(device))
    limit = PROMISING * min(found.values())
    ordered = sorted((plan for plan in found if found[plan] <= limit), key=lambda plan: found[plan])
    yield from ordered
    wide = replace(ordered[0], vectors=3)
    if device.vector_registers <= 16 and wide.blocks[0][1] == wide.vectors > ordered[0].vectors:
        yield wide
