"""What the cost model sees of a candidate: numbers by name, found by looking at workload, variant and device.

Nothing here knows a layer kind or a routine: attributes, shapes and parameters are walked, so that a new routine needs
no code. Numbers that a candidate lacks are missing values to the trees.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from softneuro_tvm.cost_model.roofline import peak_flops, roofline_s
from softneuro_tvm.device import Device
from softneuro_tvm.errors import SoftNeuroError
from softneuro_tvm.formats import Format, TensorType, block_of, parse_layout, physical_bytes, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.registry import layer_kinds
from softneuro_tvm.routine import Candidate

Features = Mapping[str, float]
Matrix = npt.NDArray[np.float32]

_MOST_ITEMS = 8
"""Entries of a sequence of attributes that are looked at."""
_MOST_TEXT = 24
"""Longer texts (expressions, modules) are no categories."""


def _walk(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Numbers of a value and all it holds; a text is a category: 1 under a name of its own."""
    if isinstance(value, bool | int | float):
        yield name, float(value)
    elif isinstance(value, str):
        if len(value) <= _MOST_TEXT:
            yield f"{name}={value}", 1.0
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _walk(f"{name}.{field.name}", getattr(value, field.name))
    elif isinstance(value, tuple):
        yield f"{name}.count", float(len(value))
        for position, item in enumerate(value[:_MOST_ITEMS]):
            yield from _walk(f"{name}.{position}", item)


def _log2(value: float) -> float:
    return math.log2(max(value, 1.0))


def _tensor(name: str, tensor: TensorType) -> Iterator[tuple[str, float]]:
    """Extents, counted from the last axis, so that ranks may differ."""
    for axis, extent in enumerate(reversed(tensor.shape[-5:]), 1):
        yield f"{name}.extent-{axis}", float(extent)


@dataclasses.dataclass(frozen=True, eq=False)
class WorkloadFacts:
    """What all candidates of one workload share.

    Args:
        features: By name.
        roofline_s: Nominal least time; times are predicted relative to it.
        place: Where the workload lies among others: log2 of operations, bytes read, bytes written, weight bytes.
        extents: Those that tiles divide: output axes from the last one, input channels, output positions.
        bytes: Of inputs, outputs and weights.
    """

    features: Features
    roofline_s: float
    place: tuple[float, float, float, float]
    extents: Mapping[str, int]
    bytes: float


@lru_cache(maxsize=1 << 14)
def workload_facts(workload: Workload, device: Device, residency: str) -> WorkloadFacts:
    """Looks at a workload.

    Args:
        workload: What is computed.
        device: What computes it.
        residency: Where weights lie: ``l2``, ``l3`` or ``dram``.
    """
    kind = layer_kinds().get(workload.kind)
    flops = float(kind.flops(workload)) if kind is not None else 0.0
    if kind is not None and not kind.shares_weights(workload):
        residency = "l2"
    read = float(sum(t.size_bytes for t in workload.inputs))
    written = float(sum(t.size_bytes for t in workload.outputs))
    weights = float(sum(t.size_bytes for _, t in workload.weights))
    total = read + written + weights
    least_s = roofline_s(flops, read + written, weights, residency, device)
    found: dict[str, float] = {
        "flops": _log2(flops),
        "bytes.in": _log2(read),
        "bytes.out": _log2(written),
        "bytes.weights": _log2(weights),
        "intensity": flops / max(total, 1.0),
        "roofline": math.log2(least_s),
        "compute_share": flops / peak_flops(device) / least_s,
        "threads": float(device.threads),
        "lanes": float(device.vector_lanes),
        "registers": float(device.vector_registers),
        "residency": float(("l2", "l3", "dram").index(residency)),
        "inputs": float(len(workload.inputs)),
    }
    for level, size in (("l1", device.l1_bytes), ("l2", device.l2_bytes), ("l3", device.l3_bytes)):
        found[f"set/{level}"] = math.log2(max(total, 1.0) / size)
        found[f"weights/{level}"] = math.log2(max(weights, 1.0) / size)
    for name, tensors in (("in", workload.inputs), ("out", workload.outputs)):
        for position, tensor in enumerate(tensors[:3]):
            found.update(_tensor(f"{name}{position}", tensor))
    for key, tensor in workload.weights:
        if tensor.rank > 1:
            found.update(_tensor(f"weight.{key}", tensor))
    found.update(_walk("attributes", workload.attributes))
    extents = {f"out-{axis}": extent for axis, extent in enumerate(reversed(workload.outputs[0].shape[-3:]), 1)}
    if workload.outputs[0].rank == 4:
        extents["positions"] = math.prod(workload.outputs[0].shape[2:])
    if workload.inputs and workload.inputs[0].rank > 1:
        extents["channels"] = workload.inputs[0].shape[1]
    place = (_log2(flops), _log2(read), _log2(written), _log2(weights))
    return WorkloadFacts(found, least_s, place, extents, total)


def as_computed(candidate: Candidate, device: Device) -> tuple[Workload, Device]:
    """Workload and device as a candidate's kernel sees them: in float16 with half the bytes, and twice the lanes."""
    if all(port.dtype != "float16" for port in candidate.variant.outputs):
        return candidate.workload, device
    return candidate.workload.computing_in("float16"), dataclasses.replace(device, vector_lanes=2 * device.vector_lanes)


@lru_cache(maxsize=1 << 12)
def _port(name: str, port: Format) -> tuple[tuple[str, float], ...]:
    block = float(max(block_of(port.layout, axis) for axis in "CABHW"))
    return ((f"{name}={port.layout}", 1.0), (f"{name}.block", block), (f"{name}={port.dtype}", 1.0))


def _fill(extent: int, tile: int) -> float:
    """Share of a rounded-up extent that is not padding."""
    return extent / (-(-extent // tile) * tile)


def candidate_features(candidate: Candidate, device: Device, residency: str) -> dict[str, float]:
    """All features of a candidate by name; see `workload_facts` for the arguments."""
    workload, device = as_computed(candidate, device)
    facts, variant = workload_facts(workload, device, residency), candidate.variant
    found = dict(facts.features)
    ports = 0
    for name, tensors, formats in (("in", workload.inputs, variant.inputs), ("out", workload.outputs, variant.outputs)):
        for position, (tensor, port) in enumerate(zip(tensors, formats, strict=False)):
            if position < 3:
                found.update(_port(f"format.{name}{position}", port))
            ports += physical_bytes(tensor, port)
    found["padding"] = ports / max(1.0, facts.bytes - 2.0 ** found["bytes.weights"])
    lanes = device.vector_lanes
    for axis, extent in facts.extents.items():
        found[f"fill.{axis}/lanes"] = _fill(extent, lanes)
    for key, value in variant.params:
        if isinstance(value, str):
            found[f"{key}={value}"] = 1.0
            continue
        found[key] = float(value)
        if value > 1 and not isinstance(value, bool):
            for axis, extent in facts.extents.items():
                found[f"fill.{axis}/{key}"] = _fill(extent, value)
                if key != "lanes":
                    found[f"fill.{axis}/{key}*lanes"] = _fill(extent, value * lanes)
    if len(variant.inputs) == len(variant.outputs) == 1 and workload.inputs[0].shape == workload.outputs[0].shape:
        shape, source, target = workload.inputs[0].shape, variant.inputs[0].layout, variant.outputs[0].layout
        found["same_memory"] = float(same_memory(shape, source, target))
    found[f"routine={candidate.routine.name}"] = 1.0
    found[f"kind={workload.kind}"] = 1.0
    scratch = _workspace_bytes(candidate)
    if scratch is not None:
        found["scratch/l2"] = math.log2(max(scratch, 1.0) / device.l2_bytes)
        found["scratch/set"] = scratch / max(facts.bytes, 1.0)
    return found


def _workspace_bytes(candidate: Candidate) -> float | None:
    """Scratch memory of a candidate; None for a setting that the routine no longer understands."""
    try:
        return float(candidate.routine.workspace_bytes(candidate.workload, candidate.variant))
    except (KeyError, ValueError, ArithmeticError, AssertionError, SoftNeuroError):
        return None


def matrix(rows: Sequence[Features], names: Sequence[str]) -> Matrix:
    """Features as the trees read them: one row a candidate, one column a name; a category that is absent is 0.

    Numbers that are absent become NaN, for which trees learn a direction.
    """
    columns = {name: position for position, name in enumerate(names)}
    absent = np.array([0.0 if "=" in name else np.nan for name in names], np.float32)
    table = np.tile(absent, (len(rows), 1))
    for row, features in enumerate(rows):
        pairs = [(columns[name], value) for name, value in features.items() if name in columns]
        if pairs:
            positions, values = zip(*pairs, strict=True)
            table[row, list(positions)] = values
    return table


def same_memory(shape: tuple[int, ...], first: str, second: str) -> bool:
    """True if a tensor's buffer is the same, element by element, in both layouts: converting it may cost nothing."""
    return _order(shape, first) == _order(shape, second)


def _order(shape: tuple[int, ...], layout: str) -> list[tuple[str, int]]:
    """Axes and extents from the outermost; axes of one element are left out, neighbours that belong together merged."""
    found: list[tuple[str, int]] = []
    for (axis, _), extent in zip(parse_layout(layout), physical_shape(shape, layout), strict=True):
        if extent == 1:
            continue
        if found and found[-1][0] == axis:
            found[-1] = (axis, found[-1][1] * extent)
        else:
            found.append((axis, extent))
    return found
