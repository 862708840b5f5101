"""Active measuring, replayed on recorded measurements."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.cost_model.model import CostModel, Pretrained
from softneuro_tvm.cost_model.records import Record
from softneuro_tvm.device import Device
from softneuro_tvm.errors import SelectionError
from softneuro_tvm.graph import Graph
from softneuro_tvm.profiler import candidate_text, residency_of
from softneuro_tvm.registry import layer_kind
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection.solver import solve
from softneuro_tvm.tuner.network import Network

Truth = Mapping[tuple[Candidate, int, str], float]
"""Measured seconds by candidate, threads and residency."""


@dataclass(frozen=True)
class Setting:
    """How tuning goes.

    Args:
        level: Share of candidates that may be faster than their lower bound.
        gap: Plans that could be faster by less than this share are not pursued.
    """

    level: float
    gap: float


def truth_of(records: Iterable[Record]) -> Truth:
    """Records as a table."""
    return {(r.candidate, r.threads, r.residency): r.median_s for r in records}


def near_records(records: Iterable[Record], graph: Graph, device: Device, each: int) -> list[Record]:
    """So many records of each routine that are of other networks, in an order that says nothing of them.

    Args:
        records: All that there are.
        graph: The network whose workloads are left out.
        device: With the number of threads; records of others are left out.
        each: Records of one routine, at most.
    """
    own = set(enumerate_candidates(graph, device).by_workload)
    found: dict[str, list[Record]] = {}
    others = [r for r in records if r.threads == device.threads and r.candidate.workload not in own]
    for record in sorted(others, key=lambda r: hashlib.sha256(candidate_text(r.candidate).encode()).digest()):
        kept = found.setdefault(record.candidate.routine.name, [])
        if len(kept) < each:
            kept.append(record)
    return [record for kept in found.values() for record in kept]


def simulate(
    graph: Graph,
    pretrained: Pretrained,
    device: Device,
    truth: Truth,
    settings: Sequence[Setting],
    slower: float = 1.0,
    near: Sequence[Record] = (),
) -> list[dict[str, Any]]:
    """Tunes a network at each setting; nothing if records of some candidates lack.

    Args:
        graph: The network.
        pretrained: A model that does not know it.
        device: What the records were taken on.
        truth: What measuring yields.
        settings: How to tune.
        slower: Factor of all times.
        near: Records of other networks, which correct the model before anything is measured.
    """
    candidates = enumerate_candidates(graph, device)
    residency = residency_of(graph.weight_bytes, device)
    timed: dict[Candidate, float] = {}
    for candidate in candidates.all():
        rotates = layer_kind(candidate.workload.kind).shares_weights(candidate.workload)
        median_s = truth.get((candidate, device.threads, residency if rotates else "l2"))
        if median_s is None:
            return []
        timed[candidate] = slower * median_s
    network = Network(graph, candidates)
    optimum_s = solve(network.problem(timed.__getitem__).pairwise).cost
    unmeasured = _unmeasured(network, CostModel(pretrained, device, residency), timed) / optimum_s - 1
    found = []
    for setting in settings:
        model = CostModel(pretrained, device, residency)
        model.seed(replace(record, median_s=slower * record.median_s) for record in near)
        best_s, measured, rounds = _tune(network, model, timed, setting)
        found.append(
            {
                "network": graph.name,
                "threads": device.threads,
                "level": setting.level,
                "gap": setting.gap,
                "candidates": len(timed),
                "measured": measured,
                "saved": 1 - measured / len(timed),
                "regret": best_s / optimum_s - 1,
                "rounds": rounds,
                "unmeasured": unmeasured,
            }
        )
    return found


def _unmeasured(network: Network, model: CostModel, timed: Mapping[Candidate, float]) -> float:
    """Seconds of the plan that is best at the predicted medians, nothing measured."""
    predicted = dict(zip(timed, model.predict(list(timed)), strict=True))
    problem = network.problem(lambda candidate: predicted[candidate].median_s)
    states = solve(problem.pairwise).states
    picks = network.picks(problem, states, lambda candidate: predicted[candidate].median_s)
    assert picks
    return _cost_of(network, picks, timed)


def _cost_of(network: Network, picks: Sequence[Candidate], timed: Mapping[Candidate, float]) -> float:
    """Measured seconds of the best plan that consists of some candidates."""
    kept = set(picks)
    return solve(network.problem(lambda c: timed[c] if c in kept else math.inf).pairwise).cost


def _tune(
    network: Network, model: CostModel, timed: Mapping[Candidate, float], setting: Setting
) -> tuple[float, int, int]:
    """Seconds of the found plan, candidates measured, and rounds."""
    known: dict[Candidate, float] = {}
    rounds, best_s = 0, math.inf
    while True:
        unknown = [candidate for candidate in timed if candidate not in known]
        predicted = dict(zip(unknown, model.predict(unknown, low=setting.level), strict=True))

        low_s = known | {candidate: prediction.low_s for candidate, prediction in predicted.items()}
        problem = network.problem(low_s.__getitem__)
        solution = solve(problem.pairwise)
        missing = [c for c in network.picks(problem, solution.states, low_s.__getitem__) if c not in known]
        if not missing or solution.lower_bound > best_s * (1 - setting.gap):
            return min(best_s, solution.cost) if not missing else best_s, len(known), rounds
        known |= {candidate: timed[candidate] for candidate in missing}
        model.refine((candidate, timed[candidate]) for candidate in missing)
        best_s, rounds = _best(network, known), rounds + 1


def _best(network: Network, known: Mapping[Candidate, float]) -> float:
    """Seconds of the best plan of measured candidates; infinite if there is none."""
    try:
        return solve(network.problem(lambda candidate: known.get(candidate, math.inf)).pairwise).cost
    except SelectionError:
        return math.inf
