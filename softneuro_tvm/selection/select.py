"""From measured candidates to a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from softneuro_tvm.candidates import Candidates, adapter_workload
from softneuro_tvm.device import Device
from softneuro_tvm.errors import SelectionError
from softneuro_tvm.formats import Format, TensorType
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.layer_kind import Cover
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.plan import AdapterChoice, Alternative, LayerChoice, Plan
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection.pairwise import PairwiseProblem
from softneuro_tvm.selection.problem import NetworkProblem, Priced, State, build_problem
from softneuro_tvm.selection.solver import conflict, greedy, marginals, solve

Profile = Mapping[Candidate, Measurement]


def select(graph: Graph, candidates: Candidates, profile: Profile, device: Device) -> Plan:
    """Chooses a routine for each layer and the adapters between them so that the network is fastest.

    Args:
        graph: The network.
        candidates: What could compute each layer, adapters included.
        profile: Measurements; candidates that failed or were not measured are left out.
        device: What was measured on.

    Raises:
        SelectionError: a layer for which nothing worked.
    """
    return _Selector(graph, candidates, profile, device).plan()


class _Selector:
    def __init__(self, graph: Graph, candidates: Candidates, profile: Profile, device: Device) -> None:
        self.graph, self.candidates, self.profile, self.device = graph, candidates, profile, device
        self.adapter = lru_cache(maxsize=None)(self._adapter)
        priced = {}
        for layer in graph.layers:
            priced[layer.name] = self._priced(self._options(layer))
            if not priced[layer.name]:
                reasons = "; ".join(f"{name}: {why}" for name, why in self._rejected(layer)[:3])
                raise SelectionError(
                    f"layer {layer.name!r} ({graph.workloads[layer.name]}): every candidate failed ({reasons}); "
                    "`softneuro-tvm tune --json` lists all"
                )
        self.priced: dict[str, list[Priced]] = priced
        measured = ((cover, self._priced(self._options(cover.layer))) for cover in candidates.covers)
        self.covers: dict[Cover, list[Priced]] = {cover: options for cover, options in measured if options}
        self.problem: NetworkProblem = build_problem(graph, priced, self._adapter_cost, list(self.covers.items()))

    def _priced(self, options: Sequence[Candidate]) -> list[Priced]:
        measured = ((option, self.profile.get(option)) for option in options)
        return [(option, m.median_s) for option, m in measured if m is not None and m.status == "ok"]

    def _options(self, layer: Layer) -> tuple[Candidate, ...]:
        return self.candidates.by_workload[self.graph.workload(layer)]

    def _rejected(self, layer: Layer) -> list[tuple[str, str]]:
        failed = [(option, self.profile[option]) for option in self._options(layer) if option in self.profile]
        return [(f"{o.routine.name}/{o.variant.params_text}", m.message) for o, m in failed if m.status != "ok"]

    def _adapter(self, tensor: TensorType, source: Format, target: Format) -> Priced | None:
        if (source.dtype, source.device) != (target.dtype, target.device):
            return None
        options = self._priced(self.candidates.by_workload.get(adapter_workload(tensor, source, target), ()))
        return min(options, key=lambda option: option[1], default=None)

    def _adapter_cost(self, tensor: TensorType, source: Format, target: Format) -> float:
        found = self.adapter(tensor, source, target)
        return np.inf if found is None else found[1]

    def plan(self) -> Plan:
        problem = self.problem
        try:
            solution = solve(problem.pairwise)
        except SelectionError as error:
            raise SelectionError(self._conflict()) from error
        best_with = marginals(problem.pairwise)
        return Plan(
            model=self.graph.name,
            graph=self.graph.digest,
            device=describe(self.device),
            layers=tuple(
                self._choice(i, solution.states[i], best_with[i])
                for i in range(len(self.graph.layers))
                if not self._is_covered(i, solution.states[i])
            ),
            adapters=tuple(self._conversion(*item) for item in problem.conversions(solution.states)),
            predicted_s=solution.cost,
            lower_bound_s=min(solution.lower_bound, solution.cost),
            method=solution.method,
            comparison=self._comparison(),
        )

    def _conflict(self) -> str:
        """Names the layers whose formats no measured adapter connects."""
        layers = [self.graph.layers[i].name for i in conflict(self.problem.pairwise) if i < len(self.graph.layers)]
        return (
            f"no measured adapter connects the formats that work for layer(s) {', '.join(map(repr, layers))}; "
            "`softneuro-tvm tune --json` lists what failed"
        )

    def _is_covered(self, i: int, state: int) -> bool:
        """Whether a later layer computes this one, too."""
        cover = self.problem.layer_states[i][state].cover
        return cover is not None and cover.parts[-1] != self.graph.layers[i].name

    def _choice(self, i: int, state: int, best_with: np.ndarray) -> LayerChoice:
        """The choice for a layer, or for the layers of which it is the last."""
        last, states = self.graph.layers[i], self.problem.layer_states[i]
        chosen = states[state]
        best = {_identity(option): (float(best_with[s]), option.cost) for s, option in enumerate(states)}
        priced = [State(*option) for option in self.priced[last.name]]
        for cover, options in self.covers.items():
            if cover.parts[-1] == last.name:
                priced += [State(*option, cover) for option in options]
        others = []
        for option in priced:
            plan_s, cost = best[_identity(option)]
            if (option.candidate, option.cover) != (chosen.candidate, chosen.cover):
                name, text = option.candidate.routine.name, option.candidate.descriptor
                if option.cover not in (None, chosen.cover):
                    text += f" covers {'+'.join(option.cover.parts)}"
                others.append(Alternative(name, text, option.cost, plan_s + option.cost - cost))
        layer = chosen.cover.layer if chosen.cover else last
        measured = self.profile[chosen.candidate]
        return LayerChoice(
            layer.name,
            layer.kind,
            self.graph.workload(layer).digest,
            chosen.candidate.routine.name,
            chosen.candidate.variant,
            chosen.candidate.descriptor,
            measured.median_s,
            measured.spread,
            tuple(sorted(others, key=lambda a: (a.plan_s, a.descriptor))),
            tuple(self._rejected(layer)),
            chosen.cover.parts if chosen.cover else (),
        )

    def _conversion(self, tensor: str, source: Format, target: Format) -> AdapterChoice:
        found = self.adapter(self.graph.tensors[tensor], source, target)
        assert found is not None  # its cost would be infinite
        candidate, cost = found
        return AdapterChoice(tensor, source, target, candidate.routine.name, candidate.variant, cost)

    def _comparison(self) -> dict[str, float]:
        """Predicted seconds of simpler strategies on the same measurements."""
        single = self.problem.without_covers()
        found = {"greedy": greedy(single).cost, "no_adapters": solve(self.problem.without_conversions()).cost}
        if self.covers:
            found["no_covers"] = solve(single).cost
        layouts = {
            port.layout
            for options in self.problem.layer_states
            for state in options
            if state.cover is None
            for port in state.candidate.variant.outputs
            if set(port.layout) >= set("NCHW")
        }
        for layout in sorted(layouts):
            try:
                found[f"single_layout:{layout}"] = solve(self._restricted(layout)).cost
            except SelectionError:
                continue  # this layout alone cannot carry the network
        return found

    def _restricted(self, layout: str) -> PairwiseProblem:
        """The problem in which each layer that can stay in one layout does."""
        unary = list(self.problem.pairwise.unary)
        for i, options in enumerate(self.problem.layer_states):
            stays = np.array([_stays_in(state.candidate, layout) for state in options])
            if any(stays[s] for s, state in enumerate(options) if state.cover is None):
                unary[i] = np.where(stays, unary[i], np.inf)
        return PairwiseProblem(tuple(unary), self.problem.pairwise.pairwise)


def _identity(state: State) -> tuple[Any, ...]:
    """What states of one layer differ in: the cover and the formats."""
    variant = state.candidate.variant
    return state.cover, variant.inputs, variant.outputs


def _stays_in(candidate: Candidate, layout: str) -> bool:
    return all(port.layout == layout for port in (*candidate.variant.inputs, *candidate.variant.outputs))


def describe(device: Device) -> dict[str, Any]:
    """What of a device goes into plans and manifests."""
    return {"name": device.name, "target": dict(device.target), "part": device.part, "threads": device.threads}
