"""Candidates that nobody measured stand in plans with the least that they, and the best plan with them, may take."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from softneuro_tvm.errors import SelectionError
from softneuro_tvm.explanation import layer_sentence
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.plan import Plan
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection import select
from softneuro_tvm.tuner import Network, with_unmeasured
from tests.support import made_up
from tests.unit.test_restrictions import AVX2, example

Results = dict[Candidate, Measurement]


def measured_in_part(seed: int) -> tuple[Results, dict[Candidate, float]]:
    """Measurements of a part of the example's candidates, those in plain NCHW among them, and bounds of the rest."""
    candidates = example()[1].all()
    drawn = np.random.default_rng(seed).random(len(candidates)) < 1 / 4
    plain = [{port.layout for port in (*c.variant.inputs, *c.variant.outputs)} == {"NCHW"} for c in candidates]
    known = [c for c, *is_known in zip(candidates, drawn, plain, strict=True) if any(is_known)]
    results = {c: made_up.measurement(c, seed) for c in known}
    return results, {c: made_up.measurement(c, seed + 1).median_s for c in candidates if c not in results}


def forced(name: str, parts: tuple[str, ...], one: Candidate, results: Results, usable: Results) -> Plan:
    """The best plan that computes a layer, or the parts of a composite at once, by one candidate.

    Args:
        name: The layer or composite.
        parts: What that computes.
        one: By this candidate.
        results: All that has a price.
        usable: What else may be used elsewhere.
    """
    graph, candidates = example()
    together = {cover.layer.name: set(cover.parts) for cover in candidates.covers}

    def allowed(layer: str, candidate: Candidate) -> bool:
        if layer == name:
            return candidate == one
        return candidate in usable and not together.get(layer, {layer}) & set(parts)

    return select(graph, candidates, results, AVX2, allowed=allowed)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("all_adapters", [True, False])
def test_the_best_plan_with_each_is_what_forcing_it_gives(seed: int, all_adapters: bool) -> None:
    graph, candidates = example()
    results, bounds = measured_in_part(seed)
    if not all_adapters:  # then some candidates fit to others without a measurement only
        bounds = {c: s for c, s in bounds.items() if c.workload.kind != "layout_cast"}
    plan = select(graph, candidates, results, AVX2)
    found = with_unmeasured(plan, Network(graph, candidates), results, bounds)
    assert found.predicted_s == plan.predicted_s
    of_layers = {graph.workload(layer) for layer in (*graph.layers, *(cover.layer for cover in candidates.covers))}
    at_bounds: Results = {c: Measurement("ok", (s,), 0.0) for c, s in bounds.items()}
    adapters = {c: m for c, m in at_bounds.items() if c.workload not in of_layers}
    joint = 0
    for before, choice in zip(plan.layers, found.layers, strict=True):
        added = [a for a in choice.alternatives if not a.measured]
        assert [a for a in choice.alternatives if a.measured] == list(before.alternatives)
        assert choice.alternatives == tuple(sorted(choice.alternatives, key=lambda a: (a.plan_s, a.descriptor)))
        last = choice.covers[-1] if choice.covers else choice.layer
        places = {(last,): last} | {c.parts: c.layer.name for c in candidates.covers if c.parts[-1] == last}
        expected = set()
        for parts, name in places.items():
            layer = next(x for x in (*graph.layers, *(c.layer for c in candidates.covers)) if x.name == name)
            for option in candidates.by_workload[graph.workload(layer)]:
                if option in results:
                    continue
                suffix = f" covers {'+'.join(parts)}" if len(parts) > 1 and parts != choice.covers else ""
                text = f"{option.descriptor}{suffix}"
                expected.add(text)
                one = {option: at_bounds[option]}
                try:
                    best = forced(name, parts, option, results | adapters | one, results)
                except SelectionError:
                    joint += 1
                    try:
                        best = forced(name, parts, option, results | at_bounds, results | at_bounds)
                    except SelectionError:
                        best = replace(plan, predicted_s=math.inf)
                alternative = next(a for a in added if a.descriptor == text)
                assert alternative.median_s == bounds[option]
                assert alternative.plan_s == pytest.approx(best.predicted_s, abs=1e-10)
        assert {a.descriptor for a in added} == expected and len(added) == len(expected)
    assert bool(joint) != all_adapters


def test_measured_ones_and_those_without_a_bound_are_left_alone() -> None:
    graph, candidates = example()
    results, bounds = measured_in_part(0)
    plan = select(graph, candidates, results, AVX2)
    network = Network(graph, candidates)
    assert with_unmeasured(plan, network, results, {}) is plan
    assert with_unmeasured(plan, network, results, dict.fromkeys(results, 1.0)) is plan
    some = dict(list(bounds.items())[::2])
    found = with_unmeasured(plan, network, results, some)
    assert all(math.isfinite(a.median_s) for choice in found.layers for a in choice.alternatives)
    assert any(not a.measured for choice in found.layers for a in choice.alternatives)


def test_the_explanation_says_that_nobody_measured_them() -> None:
    graph, candidates = example()
    results, bounds = measured_in_part(0)
    plan = select(graph, candidates, results, AVX2)
    found = with_unmeasured(plan, Network(graph, candidates), results, dict.fromkeys(bounds, 1e-9))
    assert any("was not measured" in layer_sentence(found, choice) for choice in found.layers)
