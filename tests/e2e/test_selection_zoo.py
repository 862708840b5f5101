"""Selection is exact on every network of the zoo, whatever the times are."""

from __future__ import annotations

import pytest

import softneuro_tvm as sn
from softneuro_tvm import zoo
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.selection import select
from tests.support import made_up


@pytest.mark.parametrize("name", [*zoo.names(), *zoo.extra_names()])
def test_every_plan_is_proved_optimal_by_elimination_alone(name: str) -> None:
    graph, device = sn.load(f"zoo:{name}").graph, sn.host_device(1)
    candidates = enumerate_candidates(graph, device)
    for seed in range(2):
        plan = select(graph, candidates, made_up.profile(candidates.all(), seed), device)
        assert (plan.method, plan.lower_bound_s) == ("elimination", plan.predicted_s)
        assert plan.comparison["no_adapters"] <= plan.predicted_s * (1 + 1e-9)
        others = [seconds for strategy, seconds in plan.comparison.items() if strategy != "no_adapters"]
        assert min(others) >= plan.predicted_s * (1 - 1e-9)
        parts = sum(choice.median_s for choice in (*plan.layers, *plan.adapters))
        assert plan.predicted_s == pytest.approx(parts)
