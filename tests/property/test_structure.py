"""A structure that is priced again gives the problem of the new prices."""

from __future__ import annotations

import math

import numpy as np

from softneuro_tvm.selection.beam import beam_search
from softneuro_tvm.selection.solver import marginals, solve
from tests.support.random_networks import random_network


def test_priced_again_it_has_the_optimum_and_the_marginals_of_brute_force() -> None:
    rng = np.random.default_rng(11)
    for _ in range(300):
        network = random_network(rng)
        structure = network.problem.structure
        for option in network.prices:
            network.prices[option] = float(rng.integers(1, 30)) * 1e-5
        for pair in network.adapters:
            network.adapters[pair] = float(rng.integers(0, 9)) * 1e-5
        limited = network.problem
        problem = structure.problem(limited.price, limited.adapter_cost)
        best: dict[object, float] = {}
        for chosen in network.choices():
            cost = limited.cost_s(chosen)
            for i, layer in enumerate(network.graph.layers):
                key = (i, chosen[layer.name].identity)
                best[key] = min(cost, best.get(key, math.inf))
        solution = solve(problem.pairwise)
        assert np.isclose(solution.cost, min(best.values()), rtol=1e-9)
        assert np.isclose(limited.cost_s(problem.chosen(solution.states)), solution.cost, rtol=1e-9)
        assert np.isclose(beam_search(problem.pairwise).cost, solution.cost, rtol=1e-9)
        found = marginals(problem.pairwise)
        for i, states in enumerate(problem.layer_states):
            for s, state in enumerate(states):
                assert np.isclose(found[i][s], best[i, state.identity], rtol=1e-9)


def test_an_infinite_price_forbids_a_candidate() -> None:
    rng = np.random.default_rng(12)
    forbidden = 0
    for _ in range(50):
        network = random_network(rng)
        limited = network.problem
        problem = limited.structure.problem(limited.price, limited.adapter_cost)
        first = network.graph.layers[0].name
        options = [state.candidate for state in problem.layer_states[0] if state.cover is None]
        chosen = problem.chosen(solve(problem.pairwise).states)[first]
        if chosen.cover is not None or len(options) < 2:
            continue
        network.prices[id(chosen.candidate)] = math.inf
        again = limited.structure.problem(limited.price, limited.adapter_cost)
        assert again.chosen(solve(again.pairwise).states)[first].candidate is not chosen.candidate
        forbidden += 1
    assert forbidden > 5
