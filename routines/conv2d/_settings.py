"""Parameter settings of the blocked convolution that are worth measuring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Variant

from .._blocked import Blocked, blocked_layouts, port_formats
from .._half import parts_of_sum
from .._lanes import rows_together, tallest_tile
from .._tir import ceil_div, element, round_up
from ._bands import BandReader, Geometry
from ._tiles import split_evenly

SMALL_FLOPS = 4_000_000
"""Below this a parallel launch costs a good part of what it saves."""


@dataclass(frozen=True)
class Choice:
    """What a routine chooses; the rest follows from cache sizes and threads.

    Args:
        vectors: Output-channel vectors of a tile.
        copy: Source of the tiles.
        by_channels: Whether threads share the output channels instead of the rows.
    """

    vectors: int
    copy: str
    by_channels: bool


def layout_pairs(workload: Workload, device: Device) -> list[tuple[str, str]]:
    """Layouts of input and output: full blocks, half blocks, one of each where half blocks waste less, NHWC."""
    g, (full, *others) = Geometry.of(workload), blocked_layouts(device)
    pairs = [(full, full)]
    for half in others:
        pairs.append((half, half))
        lanes = device.vector_lanes
        if round_up(g.c, lanes // 2) != round_up(g.c, lanes):
            pairs.append((half, full))
        if round_up(g.k, lanes // 2) != round_up(g.k, lanes):
            pairs.append((full, half))
    if g.c % 4 == 0 and g.k % device.vector_lanes == 0:
        pairs.append(("NHWC", "NHWC"))
    return pairs


def tile_vectors(device: Device) -> tuple[int, int, int]:
    """Output-channel vectors of tiles, most promising first: with few registers, four leave too few positions."""
    return (2, 4, 3) if device.vector_registers >= 32 else (2, 3, 1)


def fills_rows(g: Geometry, device: Device) -> bool:
    """True if tiles of two vectors along one output row are wide."""
    widest = tallest_tile(2, device.vector_registers, rows_together(device.vector_lanes, device.vector_registers))
    return split_evenly(g.ow, widest)[0][1] * 4 >= 3 * widest


def setting(workload: Workload, device: Device, choice: Choice, source: str, target: str) -> Variant:
    """The variant of a choice: bands whose data stays in the second-level cache, steps whose weights do too."""
    g, lanes = Geometry.of(workload), device.vector_lanes
    reader = BandReader(g, Blocked(workload.inputs[0].shape, source), lanes)
    vectors = split_evenly(ceil_div(g.k, lanes), choice.vectors)[0][1]
    taps = 4 * ceil_div(g.c, reader.block) * reader.block * g.r * g.s
    steps = max(1, round(taps * vectors * lanes / (device.l2_bytes // 8)))
    if element() != "float32":
        steps = max(steps, parts_of_sum(g.c * g.r * g.s))
    is_weight_heavy = taps * g.k > device.l2_bytes // 2
    room = device.l2_bytes if is_weight_heavy else device.l2_bytes // (4 if reader.map.block > 1 else 2)
    rows = g.oh * g.ow if choice.copy == "flat" else g.oh

    def fits(bands: int) -> bool:
        height = ceil_div(rows, bands)
        copied = 4 * reader.scratch_elements(choice.copy, height)
        read = 4 * g.c * (height if choice.copy == "flat" else height * g.w * g.strides[0])
        return max(copied, read) <= room or height == 1

    bands = next(n for n in range(1, rows + 1) if fits(n))
    groups = ceil_div(ceil_div(g.k, lanes), choice.vectors)
    parts = 1
    if device.threads > 1 and g.n % device.threads:
        if choice.by_channels:
            parts = min(device.threads, groups)
        else:
            bands = min(rows, round_up(bands, device.threads))
    params = (
        ("lanes", lanes),
        ("vectors", vectors),
        ("copy", choice.copy),
        ("bands", bands),
        ("parts", parts),
        ("steps", min(steps, ceil_div(g.c, reader.block))),
    )
    return Variant(params, *port_formats(workload, source, target))


def serial(variant: Variant) -> Variant:
    """The same variant in one task for each image."""
    params = tuple((key, 1 if key in ("bands", "parts") else value) for key, value in variant.params)
    return Variant(params, variant.inputs, variant.outputs)


def tasks(workload: Workload, variant: Variant) -> int:
    """What can run at the same time."""
    return workload.inputs[0].shape[0] * int(variant["bands"]) * int(variant["parts"])


def prefers_channels(workload: Workload, device: Device, vectors: int) -> bool:
    """True for small maps whose output channels threads can share evenly."""
    g = Geometry.of(workload)
    groups = ceil_div(ceil_div(g.k, device.vector_lanes), vectors)
    return g.oh * g.ow <= 400 and groups % device.threads == 0


def settings(
    workload: Workload, device: Device, choices: list[Choice], pairs: list[tuple[str, str]]
) -> Iterator[Variant]:
    """All choices for the first pair of layouts, the first choice for the others; small layers also serially."""
    g = Geometry.of(workload)
    found: dict[Variant, None] = {}
    for source, target in pairs:
        for choice in choices if (source, target) == pairs[0] else choices[:1]:
            found[setting(workload, device, choice, source, target)] = None
    if device.threads > 1:
        first = next(iter(found))
        shared = [variant for variant in found if tasks(workload, variant) > 1]
        found = dict.fromkeys(shared or found)
        if 2 * g.n * g.k * g.oh * g.ow * g.c * g.r * g.s < SMALL_FLOPS:
            found[serial(first)] = None
    yield from found
