"""Finds decisions of a plan that the measurements leave open."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from softneuro_tvm.measurement import Measurement
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection.solver import solve
from softneuro_tvm.selection.states import NetworkProblem
from softneuro_tvm.tuner.network import Network

_NEGLIGIBLE = 5e-4
"""A decision about less than this share of the whole network's time is left as it is."""


class Care(Protocol):
    """How sure a decision must be, and how much that may cost."""

    @property
    def confidence(self) -> float:
        """Standard errors by which a choice must be better than its alternatives."""

    @property
    def repeats(self) -> int:
        """Processes that measure a candidate, at most."""


def contested(network: Network, results: Mapping[Candidate, Measurement], care: Care) -> list[Candidate]:
    """Candidates to measure again: chosen ones and alternatives that might be better, as far as is known.

    Chosen ones that were measured while the machine was slow are among them.

    Args:
        network: What is tuned.
        results: Measurements; a candidate without one counts as unusable.
        care: How sure to be.
    """

    def timed(candidate: Candidate) -> float:
        found = results.get(candidate)
        return math.inf if found is None else found.median_s

    problem = network.problem(timed)
    solution = solve(problem.pairwise)
    chosen = _chosen(network, problem, solution.states)
    best_with = network.best_with(problem, timed)
    again: dict[Candidate, None] = {}
    for name, choice in chosen.items():
        if results[choice].slowdown > 1.0:
            again[choice] = None
        for option in network.options[name]:
            if option == choice or option not in best_with:
                continue
            behind_s = best_with[option] - solution.cost
            doubt_s = care.confidence * math.hypot(results[option].uncertainty_s, results[choice].uncertainty_s)
            if behind_s < doubt_s and doubt_s > _NEGLIGIBLE * solution.cost:
                again |= {choice: None, option: None}
    return [candidate for candidate in again if results[candidate].repeats < care.repeats]


def _chosen(network: Network, problem: NetworkProblem, states: Sequence[int]) -> dict[str, Candidate]:
    """What computes each layer; layers that are computed at once under the composite's name."""
    chosen = {}
    for i, layer in enumerate(network.graph.layers):
        state = problem.layer_states[i][states[i]]
        if state.cover is None or state.cover.parts[-1] == layer.name:
            chosen[state.cover.layer.name if state.cover else layer.name] = state.candidate
    return chosen
