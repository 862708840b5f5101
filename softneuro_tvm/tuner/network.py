"""The selection problem of a network at given prices, and the candidates that a solution consists of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Protocol

from softneuro_tvm.candidates import Candidates, adapter_workload, is_convertible
from softneuro_tvm.formats import Format, TensorType
from softneuro_tvm.graph import Graph
from softneuro_tvm.layer_kind import Cover
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection.solver import marginals
from softneuro_tvm.selection.states import NetworkProblem
from softneuro_tvm.selection.structure import Structure

Price = Callable[[Candidate], float]
"""Seconds of a candidate; infinite where it cannot be used."""
Allowed = Callable[[str, Candidate], bool]
"""Whether a layer, or a composite by its name, may be computed by a candidate."""


class Rules(Protocol):
    """What may be chosen where."""

    def allows(self, layer_name: str, candidate: Candidate) -> bool:
        """Whether a layer, or a composite by its name, may be computed by a candidate."""

    def candidates(self, candidates: Candidates) -> Candidates:
        """The candidates without those that may be used nowhere."""


@dataclass(frozen=True, eq=False)
class Network:
    """A network and what could compute it.

    Args:
        graph: The network.
        candidates: Of each workload, adapters included; those that may be used.
        rules: What may be chosen where; everything if None.
    """

    graph: Graph
    candidates: Candidates
    rules: Rules | None = None

    @cached_property
    def options(self) -> Mapping[str, tuple[Candidate, ...]]:
        """Candidates of each layer and each composite, by name."""
        layers = (*self.graph.layers, *(cover.layer for cover in self.candidates.covers))
        return {
            layer.name: tuple(
                option
                for option in self.candidates.by_workload[self.graph.workload(layer)]
                if self.rules is None or self.rules.allows(layer.name, option)
            )
            for layer in layers
        }

    @property
    def allowed(self) -> Allowed | None:
        """The rules as a function; None if everything may be chosen."""
        return self.rules.allows if self.rules else None

    def widened(self, candidates: Candidates) -> Network:
        """The same network with other candidates, as far as the rules allow them."""
        return replace(self, candidates=self.rules.candidates(candidates) if self.rules else candidates)

    @cached_property
    def _structure(self) -> Structure:
        covers = [(cover, self.options[cover.layer.name]) for cover in self.candidates.covers]
        layers = {layer.name: self.options[layer.name] for layer in self.graph.layers}
        return Structure.of(self.graph, layers, [(cover, options) for cover, options in covers if options])

    def problem(self, price: Price) -> NetworkProblem:
        """The selection problem.

        Raises:
            SelectionError: a layer without candidates.
        """
        return self._structure.problem(price, self._adapter_cost(price))

    def _adapter_cost(self, price: Price) -> Callable[[TensorType, Format, Format], float]:
        @cache
        def cost(tensor: TensorType, source: Format, target: Format) -> float:
            return min(map(price, self.adapters(tensor, source, target)), default=math.inf)

        return cost

    def adapters(self, tensor: TensorType, source: Format, target: Format) -> tuple[Candidate, ...]:
        """Candidates that convert a tensor; none where there is no such adapter."""
        if not is_convertible(source, target):
            return ()
        return self.candidates.by_workload.get(adapter_workload(tensor, source, target), ())

    def best_with(self, problem: NetworkProblem, price: Price) -> dict[Candidate, float]:
        """Seconds of the best plan that uses each candidate of a layer or a composite (its min-marginal).

        Candidates without a finite price, and adapters, are left out.
        """
        best: dict[Candidate, float] = {}
        for (_, option), plan_s in self.plans_with(problem, price).items():
            best[option] = min(plan_s, best.get(option, math.inf))
        return best

    def plans_with(
        self, problem: NetworkProblem, price: Price
    ) -> dict[tuple[tuple[str, Cover | None], Candidate], float]:
        """The same for each place at which a candidate may be used.

        Returns:
            Seconds by the name of the layer and the cover that ends with it (None for the layer itself), and candidate.
        """
        found: dict[tuple[tuple[str, Cover | None], Candidate], float] = {}
        tables = marginals(problem.pairwise)
        for i, layer in enumerate(self.graph.layers):
            states = problem.layer_states[i]
            ends = dict.fromkeys(s.cover for s in states if s.cover is None or s.cover.parts[-1] == layer.name)
            at = {(s.cover, s.candidate.variant.inputs, s.candidate.variant.outputs): j for j, s in enumerate(states)}
            for cover in ends:
                for option in self.options[cover.layer.name if cover else layer.name]:
                    j = at.get((cover, option.variant.inputs, option.variant.outputs))
                    if j is not None and (cost := price(option)) < math.inf:
                        found[(layer.name, cover), option] = float(tables[i][j]) + cost - states[j].cost
        return found

    def picks(self, problem: NetworkProblem, states: Sequence[int], price: Price) -> list[Candidate]:
        """The distinct candidates of a solution, adapters last."""
        found: dict[Candidate, None] = {}
        for i in range(len(self.graph.layers)):
            found[problem.layer_states[i][states[i]].candidate] = None
        for tensor, source, target in problem.conversions(states):
            found[min(self.adapters(self.graph.tensors[tensor], source, target), key=price)] = None
        return list(found)
