"""Stage `enumerate`: every layer x routine x parameters that applies, and why the others do not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from softneuro_tvm.covers import find_covers
from softneuro_tvm.device import Device
from softneuro_tvm.errors import SelectionError
from softneuro_tvm.formats import Format, TensorType, canonical_format
from softneuro_tvm.graph import Graph, Workload
from softneuro_tvm.layer_kind import Cover
from softneuro_tvm.layers.layout_cast import LayoutCastAttributes
from softneuro_tvm.registry import layer_kind, routines_of
from softneuro_tvm.routine import Candidate


@dataclass(frozen=True, eq=False)
class Candidates:
    """The search space of a graph on a device.

    Args:
        by_workload: Candidates of each distinct workload.
        refusals: For each workload the routines that do not apply, with the reason.
        covers: Layers that one candidate can compute at once; the composites' workloads are in `by_workload`.
    """

    by_workload: Mapping[Workload, tuple[Candidate, ...]]
    refusals: Mapping[Workload, tuple[tuple[str, str], ...]]
    covers: tuple[Cover, ...] = ()

    def all(self) -> tuple[Candidate, ...]:
        """Every candidate, adapters last."""
        return tuple(candidate for options in self.by_workload.values() for candidate in options)


def workload_candidates(
    workload: Workload, device: Device, last_resorts: bool = False
) -> tuple[tuple[Candidate, ...], tuple[tuple[str, str], ...]]:
    """Candidates of one workload, and the refused routines with their reasons.

    Args:
        workload: What to compute.
        device: What to compute it on.
        last_resorts: Also take routines that are otherwise left out where a better one applies.
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
        found += [Candidate(workload, routine, variant) for variant in variants]
    return tuple(found), tuple(refused)


def adapter_workload(tensor: TensorType, source: Format, target: Format) -> Workload:
    """The conversion of a tensor from one format into another, as a workload of kind `layout_cast`."""
    return layer_kind("layout_cast").workload(LayoutCastAttributes(source.layout, target.layout), [tensor])


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
            if source != target and (source.dtype, source.device) == (target.dtype, target.device)
        }
    return list(needed)


def enumerate_candidates(graph: Graph, device: Device, last_resorts: Collection[Workload] = ()) -> Candidates:
    """Lists what could compute each layer, what could compute several at once, and the adapters in between.

    Args:
        graph: The network.
        device: What to compute it on.
        last_resorts: Workloads for which everything better has failed.

    Raises:
        SelectionError: a layer that no routine computes.
    """
    by_workload: dict[Workload, tuple[Candidate, ...]] = {}
    refusals: dict[Workload, tuple[tuple[str, str], ...]] = {}
    for layer in graph.layers:
        workload = graph.workloads[layer.name]
        if workload in by_workload:
            continue
        found = workload_candidates(workload, device, workload in last_resorts)
        by_workload[workload], refusals[workload] = found
        if not by_workload[workload]:
            reasons = "; ".join(f"{name} {reason}" for name, reason in refusals[workload])
            raise SelectionError(f"no routine computes layer {layer.name!r} ({workload}): {reasons or 'none exists'}")
    covers = []
    for cover in find_covers(graph):
        workload = graph.workload(cover.layer)
        if workload not in by_workload:
            found = workload_candidates(workload, device)
            # a definition that suits every kind only repeats what its parts' routines do better
            by_workload[workload] = tuple(option for option in found[0] if option.routine.kind == workload.kind)
            refusals[workload] = found[1]
        if by_workload[workload]:
            covers.append(cover)
        else:
            del by_workload[workload]
    for workload in adapter_workloads(graph, by_workload, covers):
        by_workload[workload], refusals[workload] = workload_candidates(workload, device)
    return Candidates(by_workload, refusals, tuple(covers))
