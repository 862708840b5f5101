"""Whatever restrictions are accepted, the plan obeys them, and there is a plan."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softneuro_tvm.activations import Activation
from softneuro_tvm.candidates import Candidates, enumerate_candidates
from softneuro_tvm.descriptor import parse
from softneuro_tvm.device import Device
from softneuro_tvm.errors import RestrictionError
from softneuro_tvm.graph import Graph
from softneuro_tvm.layers.conv2d import Conv2dAttributes
from softneuro_tvm.plan import LayerChoice, Plan
from softneuro_tvm.restrictions import Restrictions
from softneuro_tvm.selection import select
from tests.support import made_up
from tests.support.graphs import Builder

AVX2 = Device("test", {"kind": "llvm", "mcpu": "haswell"}, vector_lanes=8, vector_registers=16, fma=True)
CLIP = Activation("clip", 0.0, 6.0)
BLOCK = ("expand", "depthwise", "project")
LAYERS = ("first", *BLOCK, "sum")
COMPOSITES = ("expand+depthwise+project", "expand+depthwise", "depthwise+project")


@cache
def example() -> tuple[Graph, Candidates]:
    """A convolution with two readers, and a block that can be computed at once, whole and in part."""
    b = Builder(x=(1, 8, 6, 6))
    b.conv("first", "x", 8)
    b.add("expand", Conv2dAttributes(activation=CLIP), "first", weight=b.normal(24, 8, 1, 1), bias=b.normal(24))
    wide = Conv2dAttributes(padding=(1, 1, 1, 1), groups=24, activation=CLIP)
    b.add("depthwise", wide, "expand", weight=b.normal(24, 1, 3, 3), bias=b.normal(24))
    b.add("project", Conv2dAttributes(), "depthwise", weight=b.normal(8, 24, 1, 1), bias=b.normal(8))
    b.each("sum", [("add", ("x0", "x1"))], "project", "first")
    graph = b.graph("sum")
    return graph, enumerate_candidates(graph, AVX2)


@st.composite
def descriptors(draw: st.DrawFn, anywhere: bool = False) -> str:
    """Something that at least one candidate of a layer or composite is, and what it is asked of."""
    graph, candidates = example()
    layers = {layer.name: layer for layer in (*graph.layers, *(cover.layer for cover in candidates.covers))}
    layer = layers[draw(st.sampled_from([*LAYERS, *COMPOSITES]))]
    found = parse(draw(st.sampled_from(candidates.by_workload[graph.workload(layer)])).descriptor)
    if draw(st.booleans()):
        found = replace(found, params=())
        found = replace(found, algorithm=found.algorithm if draw(st.booleans()) else "")
    found = replace(found, layout=found.layout if draw(st.booleans()) else "")
    scopes = [(layer.name,), (layer.name.split("+")[-1],), (layer.name, "0")]
    scopes += [("inverted_residual",)] if layer.name in COMPOSITES else [("*p*",)] if layer.name in BLOCK else []
    return str(replace(found, layers=() if anywhere and draw(st.booleans()) else draw(st.sampled_from(scopes))))


RESTRICTIONS = st.fixed_dictionaries(
    {
        "force": st.lists(descriptors(), max_size=2),
        "forbid": st.lists(descriptors(anywhere=True), max_size=2),
        "routine": st.lists(descriptors(anywhere=True), max_size=2),
    }
)


def meant(text: str) -> tuple[set[str], set[str]]:
    """The layers and the composites that a descriptor names, found in another way."""
    layers, composites = set[str](), set[str]()
    for item in parse(text).layers or (*LAYERS, *COMPOSITES):
        layers |= {
            "0": {"first"},
            "*p*": set(BLOCK),
            "inverted_residual": set(),
        }.get(item, {item} & set(LAYERS))
        composites |= set(COMPOSITES) if item == "inverted_residual" else {item} & set(COMPOSITES)
    return layers, composites


def parts(choice: LayerChoice) -> set[str]:
    return set(choice.covers or (choice.layer,))


def is_one(choice: LayerChoice, text: str) -> bool:
    return parse(text).admits(choice.routine, choice.descriptor)


def obeys(plan: Plan, force: list[str], forbid: list[str]) -> None:
    for text in force:
        layers, composites = meant(text)
        inside = layers | {part for composite in composites for part in composite.split("+")}
        assert all(is_one(choice, text) for choice in plan.layers if parts(choice) & inside)
        if "inverted_residual" not in parse(text).layers:
            assert composites <= {choice.layer for choice in plan.layers}
    for text in forbid:
        layers, composites = meant(text)
        for choice in plan.layers:
            if parts(choice) & layers or choice.layer in composites:
                assert not is_one(choice, text)


@settings(max_examples=150)
@given(RESTRICTIONS, st.integers(0, 3))
def test_plans_obey(changes: dict[str, list[str]], seed: int) -> None:
    graph, candidates = example()
    try:
        restrictions = Restrictions(graph, candidates, **changes)
    except RestrictionError:
        return
    profile = made_up.profile(candidates.all(), seed)
    plan = select(graph, candidates, profile, AVX2, allowed=restrictions.allows)
    obeys(plan, changes["force"], changes["forbid"])
    assert plan.predicted_s >= select(graph, candidates, profile, AVX2).predicted_s * (1 - 1e-9)
    # what is dropped is not needed: neither as a candidate nor as an adapter
    left = restrictions.candidates(candidates)
    fewer = made_up.profile(left.all(), seed)
    again = select(graph, left, fewer, AVX2, allowed=restrictions.allows)
    assert (again.layers, again.adapters, again.predicted_s) == (plan.layers, plan.adapters, plan.predicted_s)


@settings(max_examples=50)
@given(st.lists(descriptors(), min_size=1, max_size=2), st.integers(0, 3))
def test_a_routine_is_used_wherever_it_can_be(routine: list[str], seed: int) -> None:
    graph, candidates = example()
    routine = [str(replace(parse(text), layers=())) for text in routine]
    restrictions = Restrictions(graph, candidates, routine=routine)
    plan = select(graph, candidates, made_up.profile(candidates.all(), seed), AVX2, allowed=restrictions.allows)
    for choice in plan.layers:
        own = [c for part in parts(choice) for c in candidates.by_workload[graph.workloads[part]]]
        if any(parse(text).matches(candidate) for text in routine for candidate in own):
            assert any(is_one(choice, text) for text in routine)


def test_a_forced_plan_is_the_best_of_its_kind() -> None:
    """The marginal of a candidate, as `explain` tells it, is the total of the plan that it is forced into."""
    graph, candidates = example()
    profile = made_up.profile(candidates.all())
    plan = select(graph, candidates, profile, AVX2)
    choice = next(c for c in plan.layers if c.layer == "first")
    checked = 0
    for other in choice.alternatives:
        restrictions = Restrictions(graph, candidates, force=[f"{other.descriptor}@first"])
        options: Any = candidates.by_workload[graph.workloads["first"]]
        if sum(restrictions.allows("first", option) for option in options) == 1:
            forced = select(graph, candidates, profile, AVX2, allowed=restrictions.allows)
            assert forced.predicted_s == pytest.approx(other.plan_s)
            checked += 1
    assert checked >= 5
