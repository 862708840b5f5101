"""Inverted residual, fused: the expanded map exists a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import blocked_layouts, port_formats
from .._channels import ChannelVectors
from .._tir import ceil_div, round_up
from ..conv2d._ports import pack_vectors
from ._kernel import BandKernel, Plan


def _has_rows(workload: Workload, device: Device) -> bool:
    depthwise = workload.attributes.depthwise
    r = workload.weight_types["depthwise.weight"].shape[2]
    return bool((r - 1) * depthwise.dilation[0] + 1 >= depthwise.strides[0])


class Bands(Routine):
    """Bands of output rows, `rows` at a time.

    A step expands the input rows that the step before has not, into a ring buffer with zeros for the padding; convolves
    its output rows with one filter for each channel; and projects these into y. The first two go through the channels
    in groups of a register tile, so that new rows are still in the first-level cache when they are read. The expanded
    map never leaves the second-level cache. A band has a ring buffer of its own; only the rows at its upper end are
    expanded a second time. Threads share the bands.

    Shapes: x NCHW<c>c; expand.weight [E group][C][e]; depthwise.weight [E / e, R, S, e]; project.weight
    [K group][E][k]; y NCHW<c>c. Error: that of two sums of C and E products, with one of R S products between.

    Source: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks (CVPR 2018), section 5.1; Alwani et
    al., Fused-layer CNN Accelerators (MICRO 2016).
    """

    kind = "inverted_residual"
    source = "Alwani et al., Fused-layer CNN Accelerators (MICRO 2016)"
    requirements = (Requirement("a kernel that reaches from one output row to the next", _has_rows),)

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """Steps of several sizes in the widest layout, of one size in the others."""
        for index, pair in enumerate(_layout_pairs(workload, device)):
            yield from _settings(workload, device, *pair, is_first=index == 0)

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Those of the parts together."""
        return 4e-5

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """The parts' weights in order, each by groups of vectors; bias; slope."""
        plan, packed = Plan(workload, variant, _lanes_only(variant)), list[np.ndarray]()
        for name in plan.parts:
            own = {key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(f"{name}.")}
            product = plan.product(name)
            if product:
                packed += product.pack(own)
                continue
            vectors = ChannelVectors(plan.geometry.k, plan.lanes, True)
            taps = vectors.gather(own["weight"][:, 0].transpose(1, 2, 0)).transpose(2, 0, 1, 3)
            packed += [np.ascontiguousarray(taps), *pack_vectors(own, vectors)]
        return tuple(packed)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """The kernel; see `BandKernel`."""
        return BandKernel(Plan(workload, variant, device)).emit()

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """The buffers of all bands, as if all ran at once."""
        plan = Plan(workload, variant, _lanes_only(variant))
        return 4 * workload.inputs[0].shape[0] * int(variant["bands"]) * plan.scratch_elements


def _lanes_only(variant: Variant) -> Device:
    """What packing needs to know of the device."""
    return Device("", {}, vector_lanes=int(variant["lanes"]))


def _layout_pairs(workload: Workload, device: Device) -> list[tuple[str, str]]:
    """Layouts of input and output: full blocks, half blocks, one of each where half blocks waste less."""
    full, *others = blocked_layouts(device)
    c, k, lanes = workload.inputs[0].shape[1], workload.outputs[0].shape[1], device.vector_lanes
    pairs = [(full, full)]
    for half in others:
        pairs.append((half, half))
        if round_up(c, lanes // 2) != round_up(c, lanes):
            pairs.append((half, full))
        if round_up(k, lanes // 2) != round_up(k, lanes):
            pairs.append((full, half))
    return pairs


def _tile_vectors(channels: int, device: Device) -> int:
    """Output-channel vectors of a tile: as many as leave the multiply-adds enough positions, without a remainder."""
    vectors = ceil_div(channels, device.vector_lanes)
    return min((3, 4) if device.vector_registers >= 32 else (2, 3), key=lambda number: vectors % number > 0)


def _settings(workload: Workload, device: Device, source: str, target: str, is_first: bool) -> Iterator[Variant]:
    """Steps of a middle number of rows; of all and of one row for the first pair of layouts."""
    (n, k, oh, _), attributes = workload.outputs[0].shape, workload.attributes
    bands = 1 if n % device.threads == 0 else min(device.threads, oh)
    params: list[tuple[str, int | str | bool]] = [("lanes", device.vector_lanes), ("bands", bands)]
    if attributes.expand:
        params.append(("expand", _tile_vectors(workload.weight_types["expand.weight"].shape[0], device)))
    if attributes.project:
        params.append(("project", _tile_vectors(k, device)))

    def setting(rows: int) -> Variant:
        return Variant((("rows", rows), *params), *port_formats(workload, source, target))

    def fits(rows: int) -> bool:
        return 4 * Plan(workload, setting(rows), device).scratch_elements <= 3 * device.l2_bytes // 4

    height = oh // bands
    sizes = [rows for rows in range(1, height + 1) if height % rows == 0 and (rows == 1 or fits(rows))]
    yield setting(sizes[len(sizes) // 2])
    if is_first:
        yield setting(sizes[-1])
        yield setting(sizes[0])
