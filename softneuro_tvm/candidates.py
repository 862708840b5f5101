"""Stage `enumerate`: every layer x routine x parameters that applies, and why the others do not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from softneuro_tvm.covers import find_covers
from softneuro_tvm.device import Device
from softneuro_tvm.errors import SelectionError
from softneuro_tvm.formats import Format, TensorType, canonical_format
from softneuro_tvm.graph import Graph, Workload
from softneuro_tvm.layer_kind import Cover
from softneuro_tvm.layers.dtype_cast import DtypeCastAttributes
from softneuro_tvm.layers.layout_cast import LayoutCastAttributes
from softneuro_tvm.registry import layer_kind, routines_of
from softneuro_tvm.routine import Candidate

Precision = Literal["float32", "mixed"]
"""Whether float32 layers are computed in float32 only, or in float16, too, where that is faster."""

_CONVERTIBLE = ({"float32", "float16"},)
"""Element types between which adapters convert."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """The search space of a graph on a device.

    Args:
        by_workload: Candidates of each distinct workload.
        refusals: For each workload the routines that do not apply, with the reason.
        covers: Layers that one candidate can compute at once; the composites' workloads are in `by_workload`.
        precision: Which candidates are among them.
    """

    by_workload: Mapping[Workload, tuple[Candidate, ...]]
    refusals: Mapping[Workload, tuple[tuple[str, str], ...]]
    covers: tuple[Cover, ...] = ()
    precision: Precision = "float32"

    def all(self) -> tuple[Candidate, ...]:
        """Every candidate, adapters last."""
        return tuple(candidate for options in self.by_workload.values() for candidate in options)


def usable_precision(asked: Precision, device: Device) -> Precision:
    """The precision that is asked for, or float32 where the device has no other arithmetic."""
    return asked if device.has_float16 else "float32"


def _keeps_types(candidate: Candidate) -> bool:
    """Whether a candidate reads and writes tensors in their own element types."""
    tensors = (*candidate.workload.inputs, *candidate.workload.outputs)
    ports = (*candidate.variant.inputs, *candidate.variant.outputs)
    return all(tensor.dtype == port.dtype for tensor, port in zip(tensors, ports, strict=True))


def workload_candidates(
    workload: Workload, device: Device, last_resorts: bool = False, precision: Precision = "float32"
) -> tuple[tuple[Candidate, ...], tuple[tuple[str, str], ...]]:
    """Candidates of one workload, and the refused routines with their reasons.

    Args:
        workload: What to compute.
        device: What to compute it on.
        last_resorts: Also take routines that are otherwise left out where a better one applies.
        precision: Whether float16 may be computed with where the workload is of float32.
    """
    found: list[Candidate] = []
    refused: list[tuple[str, str]] = []
    for routine in routines_of(workload.kind):
        reason = routine.refusal(workload, device)
        if reason is None and routine.fallback and found and not last_resorts:
            reason = "is a last resort, and other routines apply"
        if reason is not None:
            refused.append((routine.name, reason))
            continue
        variants = dict.fromkeys(routine.variants(workload, device))
        options = (Candidate(workload, routine, variant) for variant in variants)
        found += [option for option in options if precision == "mixed" or _keeps_types(option)]
    return tuple(found), tuple(refused)


def adapter_workload(tensor: TensorType, source: Format, target: Format) -> Workload:
    """The conversion of a tensor into another format: of kind `layout_cast`, or `dtype_cast` if types differ."""
    written = replace(tensor, dtype=source.dtype)
    if source.dtype == target.dtype:
        return layer_kind("layout_cast").workload(LayoutCastAttributes(source.layout, target.layout), [written])
    attributes = DtypeCastAttributes(source.layout, target.layout, target.dtype)
    return layer_kind("dtype_cast").workload(attributes, [written])


def is_convertible(source: Format, target: Format) -> bool:
    """Whether there are adapters from one format to the other."""
    types = {source.dtype, target.dtype}
    return source.device == target.device and (len(types) == 1 or types in _CONVERTIBLE)


def adapter_workloads(
    graph: Graph, by_workload: Mapping[Workload, tuple[Candidate, ...]], covers: Iterable[Cover]
) -> list[Workload]:
    """Every conversion that some choice of candidates could need.

    Args:
        graph: The network.
        by_workload: Candidates of its layers and of the covers' composites.
        covers: Layers that may be computed at once.
    """
    written: dict[str, dict[Format, None]] = {tensor: {} for tensor in graph.tensors}
    read: dict[str, dict[Format, None]] = {tensor: {} for tensor in graph.tensors}
    for layer in (*graph.layers, *(cover.layer for cover in covers)):
        for option in by_workload[graph.workload(layer)]:
            for tensor, port in zip(layer.outputs, option.variant.outputs, strict=True):
                written[tensor][port] = None
            for tensor, port in zip(layer.inputs, option.variant.inputs, strict=True):
                read[tensor][port] = None
    needed: dict[Workload, None] = {}
    for tensor, tensor_type in graph.tensors.items():
        canonical = canonical_format(tensor_type)
        sources, targets = written[tensor] or {canonical: None}, read[tensor]
        if tensor in graph.outputs:
            targets[canonical] = None
        needed |= {
            adapter_workload(tensor_type, source, target): None
            for source in sources
            for target in targets
            if source != target and is_convertible(source, target)
        }
    return list(needed)


def enumerate_candidates(
    graph: Graph, device: Device, last_resorts: Collection[Workload] = (), precision: Precision = "float32"
) -> Candidates:
    """Lists what could compute each layer, what could compute several at once, and the adapters in between.

    Args:
        graph: The network.
        device: What to compute it on.
        last_resorts: Workloads for which everything better has failed.
        precision: Whether float16 may be computed with where the network is of float32.

    Raises:
        SelectionError: a layer that no routine computes.
    """
    by_workload: dict[Workload, tuple[Candidate, ...]] = {}
    refusals: dict[Workload, tuple[tuple[str, str], ...]] = {}
    for layer in graph.layers:
        workload = graph.workloads[layer.name]
        if workload in by_workload:
            continue
        found = workload_candidates(workload, device, workload in last_resorts, precision)
        by_workload[workload], refusals[workload] = found
        if not by_workload[workload]:
            reasons = "; ".join(f"{name} {reason}" for name, reason in refusals[workload])
            raise SelectionError(f"no routine computes layer {layer.name!r} ({workload}): {reasons or 'none exists'}")
    covers = []
    for cover in find_covers(graph):
        workload = graph.workload(cover.layer)
        if workload not in by_workload:
            found = workload_candidates(workload, device, precision=precision)
            # a definition that suits every kind only repeats what its parts' routines do better
            by_workload[workload] = tuple(option for option in found[0] if option.routine.kind == workload.kind)
            refusals[workload] = found[1]
        if by_workload[workload]:
            covers.append(cover)
        else:
            del by_workload[workload]
    for workload in adapter_workloads(graph, by_workload, covers):
        by_workload[workload], refusals[workload] = workload_candidates(workload, device)
    return Candidates(by_workload, refusals, tuple(covers), precision)
