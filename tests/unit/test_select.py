"""What goes into a plan besides the choices: resources, limits, restrictions; and that it depends on nothing else."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from softneuro_tvm.candidates import Candidates, enumerate_candidates
from softneuro_tvm.device import Device
from softneuro_tvm.errors import SelectionError
from softneuro_tvm.graph import Graph
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.plan import Plan
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection import Limits, front_figure, pareto, select
from tests.support import made_up
from tests.support.graphs import Builder

AVX2 = Device("test", {"kind": "llvm", "mcpu": "haswell"}, vector_lanes=8, vector_registers=16, fma=True)


def small() -> Graph:
    b = Builder(x=(1, 12, 8, 8))
    first = b.conv("first", "x", 20)
    left, right = b.conv("left", first, 12), b.conv("right", first, 12)
    b.each("y", [("add", ("x0", "x1"))], left, right)
    return b.graph("y")


def measured(candidate: Candidate, seed: int = 0) -> Measurement:
    """Made-up times; the faster the less accurate."""
    found = made_up.measurement(candidate, seed)
    return Measurement("ok", found.samples_s, 1e-10 / found.median_s)


def inputs(graph: Graph, seed: int = 0) -> tuple[Candidates, dict[Candidate, Measurement]]:
    candidates = enumerate_candidates(graph, AVX2)
    return candidates, {candidate: measured(candidate, seed) for candidate in candidates.all()}


def planned(graph: Graph, **options: Any) -> Plan:
    candidates, profile = inputs(graph)
    return select(graph, candidates, profile, AVX2, **options)


def test_a_plan_says_what_layers_read_write_and_need() -> None:
    graph = small()
    plan = planned(graph)
    assert [(c.inputs, c.outputs) for c in plan.layers] == [(layer.inputs, layer.outputs) for layer in graph.layers]
    assert plan.resources["accuracy"] == pytest.approx(sum(c.error for c in plan.layers))
    assert min(plan.resources.values()) > 0 and plan.limits == {}
    assert all(other.measured for c in plan.layers for other in c.alternatives)
    assert {"greedy", "beam", "no_adapters"} <= plan.comparison.keys()
    assert plan.comparison["no_adapters"] <= plan.predicted_s <= plan.comparison["beam"] * (1 + 1e-9)
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("resource", ["memory_bytes", "workspace_bytes", "weights_bytes", "accuracy"])
def test_a_plan_under_a_limit_keeps_it_and_is_proved(resource: str) -> None:
    graph = small()
    free = planned(graph)
    with pytest.raises(SelectionError, match=f"{resource} is limited to 0") as caught:
        planned(graph, limits=Limits(**{resource: 0}))
    least = float(str(caught.value).partition("no plan needs less than ")[2].split(";")[0])
    plan = planned(graph, limits=Limits(**{resource: least}))
    assert plan.resources[resource] == least <= free.resources[resource]
    assert plan.limits == {resource: least}
    assert plan.lower_bound_s == plan.predicted_s >= free.predicted_s
    assert plan.predicted_s == pytest.approx(sum(c.median_s for c in (*plan.layers, *plan.adapters)))


def test_limits_that_exclude_each_other_are_named_together() -> None:
    graph = small()
    candidates, profile = inputs(graph)

    def least(resource: str) -> float:
        points = pareto(graph, candidates, profile, AVX2, axes=(resource,))
        return float(points[-1][resource])

    both = Limits(weights_bytes=least("weights_bytes"), accuracy=least("accuracy"))
    with pytest.raises(SelectionError, match=r"weights_bytes is limited .* with accuracy .*; accuracy is limited"):
        planned(graph, limits=both)


def test_a_limit_must_not_be_negative() -> None:
    with pytest.raises(SelectionError, match="accuracy is -1"):
        Limits(accuracy=-1)


def test_points_of_a_front_are_plans(tmp_path: Path) -> None:
    graph = small()
    candidates, profile = inputs(graph)
    points = pareto(graph, candidates, profile, AVX2, axes=("workspace_bytes", "accuracy"))
    fronts = [[point for point in points if point["axis"] == axis] for axis in ("workspace_bytes", "accuracy")]
    for axis, front in zip(("workspace_bytes", "accuracy"), fronts, strict=True):
        assert len(front) > 1
        for faster, slower in itertools.pairwise(front):
            assert faster["predicted_s"] < slower["predicted_s"] and faster[axis] > slower[axis]
        plan = select(graph, candidates, profile, AVX2, limits=Limits.at(front[-1]))
        assert plan.predicted_s == pytest.approx(front[-1]["predicted_s"])
    pytest.importorskip("matplotlib")
    front_figure(points, tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 1000
    with pytest.raises(SelectionError, match="nothing to plot"):
        front_figure((), tmp_path / "none.png")


def test_candidates_that_are_not_allowed_are_left_out() -> None:
    graph = small()
    free = planned(graph)
    first = free.layers[0].routine
    plan = planned(graph, allowed=lambda name, option: name != "first" or option.routine.name != first)
    assert plan.layers[0].routine != first and plan.predicted_s > free.predicted_s
    assert all(other.routine != first for other in plan.layers[0].alternatives)
    with pytest.raises(SelectionError, match=r"layer 'left'.*no candidate that works is allowed"):
        planned(graph, allowed=lambda name, option: name != "left")


def test_equally_fast_candidates_are_told_apart_by_their_names() -> None:
    graph = small()
    candidates, profile = inputs(graph)
    same = {candidate: Measurement("ok", (1e-5,), 1e-6) for candidate in profile}
    plan = select(graph, candidates, same, AVX2)
    turned = Candidates(
        {workload: options[::-1] for workload, options in reversed(candidates.by_workload.items())},
        candidates.refusals,
        candidates.covers[::-1],
    )
    backwards = {candidate: same[candidate] for candidate in reversed(list(same))}
    assert select(graph, turned, backwards, AVX2).to_json() == plan.to_json()


SCRIPT = "from tests.unit.test_select import plan_texts; print(*plan_texts(), end='')"


def plan_texts() -> list[str]:
    """Plans without and with a limit that matters."""
    free = planned(small())
    limits = Limits(accuracy=0.7 * free.resources["accuracy"])
    return [free.to_json(), planned(small(), limits=limits).to_json()]


def test_plans_do_not_depend_on_the_hash_seed() -> None:
    texts = plan_texts()
    assert Plan.from_json(texts[0]).predicted_s < Plan.from_json(texts[1]).predicted_s
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"},
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert done.stdout == " ".join(texts)
