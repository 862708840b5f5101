"""Stage `enumerate`: every layer x routine x parameters that applies, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from softneuro_tvm.device import Device
from softneuro_tvm.errors import SelectionError
from softneuro_tvm.graph import Graph, Workload
from softneuro_tvm.registry import routines_of
from softneuro_tvm.routine import Candidate


@dataclass(frozen=True, eq=False)
class Candidates:
    """The search space of a graph on a device.

    Args:
        by_workload: Candidates of each distinct workload.
        refusals: For each workload the routines that do not apply, with the reason.
    """

    by_workload: Mapping[Workload, tuple[Candidate, ...]]
    refusals: Mapping[Workload, tuple[tuple[str, str], ...]]

    def __len__(self) -> int:
        return sum(map(len, self.by_workload.values()))


def workload_candidates(
    workload: Workload, device: Device
) -> tuple[tuple[Candidate, ...], tuple[tuple[str, str], ...]]:
    """Candidates of one workload, and the refused routines with their reasons."""
    found: list[Candidate] = []
    refused: list[tuple[str, str]] = []
    for routine in routines_of(workload.kind):
        reason = routine.refusal(workload, device)
        if reason is None and routine.fallback and found:
            reason = "is a last resort, and other routines apply"
        if reason is not None:
            refused.append((routine.name, reason))
            continue
        variants = dict.fromkeys(routine.variants(workload, device))
        found += [Candidate(workload, routine, variant) for variant in variants]
    return tuple(found), tuple(refused)


def enumerate_candidates(graph: Graph, device: Device) -> Candidates:
    """Lists what could compute each layer.

    Raises:
        SelectionError: a layer that no routine computes.
    """
    by_workload: dict[Workload, tuple[Candidate, ...]] = {}
    refusals: dict[Workload, tuple[tuple[str, str], ...]] = {}
    for layer in graph.layers:
        workload = graph.workloads[layer.name]
        if workload in by_workload:
            continue
        by_workload[workload], refusals[workload] = workload_candidates(workload, device)
        if not by_workload[workload]:
            reasons = "; ".join(f"{name} {reason}" for name, reason in refusals[workload])
            raise SelectionError(f"no routine computes layer {layer.name!r} ({workload}): {reasons or 'none exists'}")
    return Candidates(by_workload, refusals)
