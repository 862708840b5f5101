"""Selection under limits, and fronts, equal brute force on thousands of small random networks."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from softneuro_tvm.errors import SelectionError
from softneuro_tvm.selection.pareto import trade
from softneuro_tvm.selection.resources import Limits
from tests.support.random_networks import RandomNetwork, random_network

RESOURCES = ("memory_bytes", "workspace_bytes", "weights_bytes", "accuracy")


def every_choice(network: RandomNetwork) -> list[tuple[float, dict[str, float]]]:
    """Time and resources of each choice."""
    problem = network.problem
    return [(problem.cost_s(chosen), problem.resources(chosen)) for chosen in network.choices()]


def some_limits(rng: np.random.Generator, ways: list[tuple[float, dict[str, float]]]) -> Limits:
    """Bounds on some resources, around what choices need: often just kept, sometimes just missed."""
    bounds = {}
    for name in RESOURCES:
        if rng.random() < 0.5:
            _, needed = ways[int(rng.integers(len(ways)))]
            bounds[name] = max(0.0, needed[name] * float(rng.choice([1.0, 1.0, 0.99, 1.01])))
    return Limits(**bounds)


@pytest.mark.parametrize("seed", range(8))
def test_the_fastest_plan_under_limits_is_that_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    infeasible = 0
    for _ in range(150):
        network = random_network(rng)
        ways = every_choice(network)
        limits = some_limits(rng, ways)
        best = min((cost for cost, needed in ways if limits.keeps(needed)), default=math.inf)
        if math.isinf(best):
            infeasible += 1
            with pytest.raises(SelectionError, match="no plan keeps the limits"):
                network.problem.fastest(limits)
            continue
        found = network.problem.fastest(limits)
        assert np.isclose(found.cost_s, best, rtol=1e-9, atol=1e-15)
        assert limits.keeps(found.resources)
        assert found.lower == found.cost_s == found.value
        assert (found.cost_s, dict(found.resources)) in ways
    assert infeasible > 5


@pytest.mark.parametrize("seed", range(2))
def test_memory_of_joined_tensors_is_that_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    joined = 0
    for _ in range(120):
        network = random_network(rng, layers=5, options=2, joins=True)
        if not any(needs.is_view for needs in network.needs.values()):
            continue
        problem = network.problem
        ways = [(problem.cost_s(chosen), problem.resources(chosen), chosen) for chosen in network.choices()]
        least = problem.minimise("memory_bytes", Limits(), time.monotonic() + 60.0)
        assert least is not None
        assert least.value == min(needed["memory_bytes"] for _, needed, _ in ways)
        _, some, _ = ways[int(rng.integers(len(ways)))]
        limits = Limits(memory_bytes=some["memory_bytes"])
        found = problem.fastest(limits)
        best = min(cost for cost, needed, _ in ways if limits.keeps(needed))
        assert np.isclose(found.cost_s, best, rtol=1e-9, atol=1e-15)
        assert limits.keeps(found.resources)
        chosen = [network.needs[id(state.candidate)] for state in found.chosen.values()]
        inputs = [len(state.candidate.workload.inputs) for state in found.chosen.values()]
        joined += any(n.is_view and count > 1 for n, count in zip(chosen, inputs, strict=True))
    assert joined > 3


@pytest.mark.parametrize("resource", RESOURCES)
def test_the_least_need_of_a_resource_is_that_of_brute_force(resource: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(100):
        network = random_network(rng)
        ways = every_choice(network)
        found = network.problem.minimise(resource, Limits(), time.monotonic() + 60.0)
        assert found is not None
        assert found.value == pytest.approx(min(needed[resource] for _, needed in ways), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("axis", ["memory_bytes", "accuracy", "weights_bytes"])
@pytest.mark.parametrize("seed", range(2))
def test_fronts_are_complete_and_nothing_on_them_is_dominated(axis: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    longest = 0
    for _ in range(60):
        network = random_network(rng)
        ways = [(cost, needed[axis]) for cost, needed in every_choice(network)]
        expected, best = [], math.inf
        for cost, needed in sorted(ways):
            if needed < best * (1 - 1e-9) and not (expected and cost <= expected[-1][0] * (1 + 1e-9)):
                expected.append((cost, needed))
            elif expected and needed < expected[-1][1]:
                expected[-1] = (expected[-1][0], needed)
            best = min(best, needed)
        start = network.problem.fastest(Limits())
        front = trade(network.problem, start, axis, Limits(), max_points=10_000, deadline=time.monotonic() + 60.0)
        assert [point.cost_s for point in front] == pytest.approx([cost for cost, _ in expected])
        needs = [point.resources[axis] for point in front]
        assert needs == pytest.approx([needed for _, needed in expected], abs=1e-12)
        assert all(point.lower == pytest.approx(point.cost_s) for point in front)
        longest = max(longest, len(front))
    assert longest > 2


def test_a_short_front_keeps_its_ends() -> None:
    rng = np.random.default_rng(2)
    shortened = 0
    for _ in range(20):
        problem = random_network(rng, layers=6, options=4).problem
        start = problem.fastest(Limits())
        whole = trade(problem, start, "accuracy", Limits(), max_points=1000, deadline=time.monotonic() + 60.0)
        short = trade(problem, start, "accuracy", Limits(), max_points=3, deadline=time.monotonic() + 60.0)
        values = [(point.cost_s, point.resources["accuracy"]) for point in whole]
        found = [(point.cost_s, point.resources["accuracy"]) for point in short]
        assert (found[0], found[-1]) == (values[0], values[-1])
        assert len(found) <= 3 + 1 and set(found) <= set(values)
        shortened += len(found) < len(values)
    assert shortened > 2
