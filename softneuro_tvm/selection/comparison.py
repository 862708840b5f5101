"""What simpler strategies would reach on the same measurements."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from softneuro_tvm.errors import SelectionError
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection.beam import beam_search
from softneuro_tvm.selection.pairwise import PairwiseProblem
from softneuro_tvm.selection.solver import greedy, least_cost
from softneuro_tvm.selection.states import NetworkProblem


def compare_strategies(problem: NetworkProblem) -> dict[str, float]:
    """Predicted seconds by strategy; one that finds nothing is left out.

    - ``greedy``: the fastest routine of each layer by itself, adapters as needed.
    - ``single_layout:LAYOUT``: one layout wherever a layer can stay in it.
    - ``beam``: beam search with 1,024 partial choices.
    - ``no_covers``: the best plan in which each layer is computed by itself; only where there are covers.
    - ``no_adapters``: a bound, the best plan if conversions cost nothing.
    """
    single = problem.without_covers()
    strategies: dict[str, Callable[[], float]] = {
        "greedy": lambda: greedy(single).cost,
        "beam": lambda: beam_search(problem.pairwise).cost,
        "no_adapters": lambda: least_cost(problem.without_conversions()),
    }
    if any(state.cover for states in problem.layer_states for state in states):
        strategies["no_covers"] = lambda: least_cost(single)
    for layout in _layouts(problem):
        strategies[f"single_layout:{layout}"] = partial(_single_layout, problem, layout)
    found = {}
    for name, strategy in strategies.items():
        try:
            found[name] = strategy()
        except SelectionError:
            continue  # the strategy alone cannot carry the network
    return {name: seconds for name, seconds in found.items() if seconds < math.inf}


def _layouts(problem: NetworkProblem) -> list[str]:
    """Layouts of images that some layer writes."""
    ports = (
        port
        for states in problem.layer_states
        for state in states
        if state.cover is None
        for port in state.candidate.variant.outputs
    )
    return sorted({port.layout for port in ports if set(port.layout) >= set("NCHW")})


def _single_layout(problem: NetworkProblem, layout: str) -> float:
    """Seconds of the best plan in which each layer that can stay in one layout does; infinite if there is none."""
    unary = list(problem.pairwise.unary)
    for i, options in enumerate(problem.layer_states):
        stays = np.array([_stays_in(state.candidate, layout) for state in options])
        if any(stays[s] for s, state in enumerate(options) if state.cover is None):
            unary[i] = np.where(stays, unary[i], np.inf)
    return least_cost(PairwiseProblem(tuple(unary), problem.pairwise.pairwise))


def _stays_in(candidate: Candidate, layout: str) -> bool:
    return all(port.layout == layout for port in (*candidate.variant.inputs, *candidate.variant.outputs))
