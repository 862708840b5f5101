"""Covers: what may be computed at once, and plans that say so."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from softneuro_tvm.activations import Activation
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.cli.plan_tables import layer_text, plan_json
from softneuro_tvm.covers import find_covers, planned_layers
from softneuro_tvm.device import Device
from softneuro_tvm.errors import PlanError
from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.layers.conv2d import Conv2dAttributes
from softneuro_tvm.layers.pool2d import Pool2dAttributes
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.plan import Plan
from softneuro_tvm.reference import evaluate
from softneuro_tvm.registry import layer_kind
from softneuro_tvm.selection import select
from tests.support.graphs import Builder

AVX2 = Device("test", {"kind": "llvm", "mcpu": "haswell"}, vector_lanes=8, vector_registers=16, fma=True)
CLIP = Activation("clip", 0.0, 6.0)


def pointwise(b: Builder, name: str, x: str, channels: int, *more: str, **changes: Any) -> str:
    weight = b.normal(channels, b.tensors[x].shape[1], 1, 1)
    attributes = Conv2dAttributes(residual=bool(more), **changes)
    return b.add(name, attributes, x, *more, weight=weight, bias=b.normal(channels))


def depthwise(b: Builder, name: str, x: str) -> str:
    c = b.tensors[x].shape[1]
    attributes = Conv2dAttributes(padding=(1, 1, 1, 1), groups=c, activation=CLIP)
    return b.add(name, attributes, x, weight=b.normal(c, 1, 3, 3), bias=b.normal(c))


def block(b: Builder) -> None:
    pointwise(b, "expand", "x", 24, activation=CLIP)
    depthwise(b, "depthwise", "expand")
    pointwise(b, "project", "depthwise", 8, "x")


def inverted_residual(*outputs: str) -> Graph:
    b = Builder(x=(1, 8, 6, 6))
    block(b)
    b.each("y", [("relu", ("x0",))], "project")
    return b.graph("y", *outputs)


def names(graph: Graph) -> list[str]:
    return ["+".join(cover.parts) for cover in find_covers(graph)]


def test_a_block_is_covered_whole_and_in_part() -> None:
    graph = inverted_residual()
    assert names(graph) == ["expand+depthwise+project", "expand+depthwise", "depthwise+project"]
    whole = find_covers(graph)[0]
    assert whole.layer.inputs == ("x", "x")
    assert dict(whole.ports) == {("expand", 0): 0, ("project", 1): 1}
    assert whole.layer.outputs == ("project",)


@pytest.mark.parametrize(
    ("output", "left"), [("expand", ["depthwise+project"]), ("depthwise", ["expand+depthwise"]), ("project", 3)]
)
def test_what_is_needed_elsewhere_is_not_covered(output: str, left: Any) -> None:
    found = names(inverted_residual(output))
    assert found == left or len(found) == left


def test_a_second_reader_prevents_a_cover() -> None:
    b = Builder(x=(1, 8, 6, 6))
    block(b)
    b.each("y", [("add", ("x0", "x1"))], "project", pointwise(b, "side", "expand", 8))
    assert names(b.graph("y")) == ["depthwise+project"]


def test_strides_padding_groups_and_residuals_of_pointwise_convolutions_are_told_apart() -> None:
    for changes in ({"strides": (2, 2)}, {"padding": (1, 1, 1, 1)}, {"groups": 2}):
        b = Builder(x=(1, 8, 6, 6))
        channels = 24
        weight = b.normal(channels, 8 // changes.get("groups", 1), 1, 1)  # type: ignore[operator]
        b.add("expand", Conv2dAttributes(**changes), "x", weight=weight, bias=b.normal(channels))  # type: ignore[arg-type]
        depthwise(b, "depthwise", "expand")
        assert names(b.graph("depthwise")) == []
    b = Builder(x=(1, 8, 6, 6), r=(1, 24, 6, 6))
    depthwise(b, "depthwise", pointwise(b, "expand", "x", 24, "r"))
    assert names(b.graph("depthwise")) == []


def squeeze_excite(swapped: bool, **changes: Any) -> Graph:
    b = Builder(x=(1, 8, 6, 6))
    b.each("u", [("relu", ("x0",))], "x")
    b.tensors["pooled"] = TensorType((1, 8, 1, 1))
    pooling = Pool2dAttributes("average", (6, 6), (1, 1), (0, 0, 0, 0))
    b.layers.append(Layer("pooled", "pool2d", pooling, ("u",), ("pooled",)))
    pointwise(b, "squeeze", "pooled", 4, activation=Activation("relu"))
    pointwise(b, "gate", "squeeze", 8, activation=Activation("sigmoid"))
    b.each("y", changes.get("product", [("mul", ("x0", "x1"))]), *(("u", "gate") if swapped else ("gate", "u")))
    return b.graph("y")


@pytest.mark.parametrize("swapped", [False, True])
def test_squeeze_and_excitation_is_covered(swapped: bool) -> None:
    graph = squeeze_excite(swapped)
    (cover,) = find_covers(graph)
    assert cover.parts == ("pooled", "squeeze", "gate", "y")
    assert cover.layer.inputs == ("u", "u")
    x = np.random.default_rng(0).standard_normal((1, 8, 6, 6))
    weights = {key: w.astype("float64") for key, w in cover.layer.weights.items()}
    u = np.maximum(x, 0)
    found = layer_kind(cover.layer.kind).reference(cover.layer.attributes, [u, u], weights)[0]
    np.testing.assert_allclose(found, evaluate(graph, {"x": x})["y"], rtol=1e-5, atol=1e-5)


def test_gates_that_are_not_multiplied_are_left_alone() -> None:
    assert names(squeeze_excite(False, product=[("add", ("x0", "x1"))])) == []
    assert names(squeeze_excite(False, product=[("mul", ("x0", "x1")), ("relu", ("t0",))])) == []


def test_a_composite_computes_what_its_parts_compute() -> None:
    graph = inverted_residual()
    x = np.random.default_rng(0).standard_normal((1, 8, 6, 6))
    expected = evaluate(dataclasses.replace(graph, outputs=("project",), output_names=()), {"x": x})["project"]
    for cover in find_covers(graph)[:1]:
        kind = layer_kind(cover.layer.kind)
        weights = {key: w.astype("float64") for key, w in cover.layer.weights.items()}
        found = kind.reference(cover.layer.attributes, [x, x], weights)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert graph.workload(cover.layer).outputs == kind.output_types(
            cover.layer.attributes, [graph.tensors["x"]] * 2, graph.workload(cover.layer).weight_types
        )


def planned(covered: bool) -> tuple[Graph, Plan]:
    """A plan by times that make covers free, or dear."""
    graph = inverted_residual()
    candidates = enumerate_candidates(graph, AVX2)
    assert len(candidates.covers) == 3

    def measured(kind: str) -> Measurement:
        seconds = (1e-6 if covered else 1.0) if kind == "inverted_residual" else 1e-4
        return Measurement("ok", (seconds,) * 5, 1e-6)

    profile = {candidate: measured(candidate.workload.kind) for candidate in candidates.all()}
    return graph, select(graph, candidates, profile, AVX2)


def test_a_plan_says_what_it_covers() -> None:
    graph, plan = planned(covered=True)
    choice = plan.layers[0]
    assert [c.layer for c in plan.layers] == ["expand+depthwise+project", "y"]
    assert choice.covers == ("expand", "depthwise", "project")
    assert choice.routine == "inverted_residual/bands"
    assert [layer.name for layer, _ in planned_layers(graph, plan)] == ["expand+depthwise+project", "y"]
    assert Plan.from_json(plan.to_json()) == plan
    assert layer_text(choice) == "covers expand + depthwise + project"
    assert plan_json(plan)["layers"][0]["covers"] == ["expand", "depthwise", "project"]
    assert plan.comparison["no_covers"] > plan.predicted_s
    # the runners-up are the ways to compute the last of the covered layers
    texts = [other.descriptor for other in choice.alternatives]
    assert any(text.endswith(" covers depthwise+project") for text in texts)
    assert any("/pointwise/" in text for text in texts)
    assert all(other.plan_s >= plan.predicted_s * (1 - 1e-9) for other in choice.alternatives)


def test_a_plan_without_covers_does_not_mention_them_in_its_layers() -> None:
    graph, plan = planned(covered=False)
    assert [c.layer for c in plan.layers] == [layer.name for layer in graph.layers]
    assert all("covers" not in layer for layer in json.loads(plan.to_json())["layers"])
    assert plan.predicted_s == pytest.approx(plan.comparison["no_covers"])
    best = min(o.plan_s for c in plan.layers for o in c.alternatives if " covers " in o.descriptor)
    assert best > 1.0


def test_plans_that_leave_layers_out_or_cover_something_else_are_refused() -> None:
    graph, plan = planned(covered=True)
    with pytest.raises(PlanError, match="each once: 'y'"):
        planned_layers(graph, dataclasses.replace(plan, layers=plan.layers[:1]))
    twice = (*plan.layers, dataclasses.replace(plan.layers[0], layer="expand", covers=()))
    with pytest.raises(PlanError, match="each once: 'expand'"):
        planned_layers(graph, dataclasses.replace(plan, layers=twice))
    wrong = dataclasses.replace(plan.layers[0], covers=("depthwise", "expand", "project"))
    with pytest.raises(PlanError, match=r"no inverted_residual covers depthwise\+expand\+project"):
        planned_layers(graph, dataclasses.replace(plan, layers=(wrong, plan.layers[1])))
