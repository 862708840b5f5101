"""DPRS on whole graphs equals brute force: shared conversions are paid once, on any directed acyclic graph."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from softneuro_tvm.formats import Format, TensorType, canonical_format
from softneuro_tvm.graph import Graph, Layer, Workload
from softneuro_tvm.layer_kind import Cover
from softneuro_tvm.routine import Candidate, Routine, Variant
from softneuro_tvm.selection.elimination import FactorGraph
from softneuro_tvm.selection.milp import solve_milp
from softneuro_tvm.selection.reductions import make_arc_consistent
from softneuro_tvm.selection.solver import marginals, solve
from softneuro_tvm.selection.states import NetworkProblem
from softneuro_tvm.selection.structure import Structure

LAYOUTS = ("NCHW", "NHWC", "NCHW8c")
TYPE = TensorType((1, 16, 4, 4))


class Fake(Routine):
    kind = "fake"
    source = "test"

    def variants(self, workload: Workload, device: Any) -> Iterable[Variant]:
        return ()

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        return 0.0

    def emit(self, workload: Workload, variant: Variant, device: Any) -> Any:
        raise AssertionError("never built")


FAKE = Fake()


Priced = tuple[Candidate, float]
Covers = list[tuple[Cover, list[Priced]]]


@st.composite
def networks(draw: st.DrawFn) -> tuple[Graph, dict[str, list[Priced]], dict[Any, float], Covers]:
    count = draw(st.integers(1, 5))
    tensors = ["in"]
    layers = []
    for i in range(count):
        recent = draw(st.sampled_from((True, True, False)))  # chains, in which there are covers, are rare by chance
        source = st.just(tensors[-1]) if recent else st.lists(st.sampled_from(tensors), min_size=1, max_size=2)
        inputs = draw(source)
        outputs = [f"t{i}", f"u{i}"][: draw(st.sampled_from((1, 1, 2)))]
        layers.append(Layer(f"l{i}", "fake", i, (inputs,) if recent else tuple(inputs), tuple(outputs)))
        tensors += outputs
    unread = [tensor for tensor in tensors if all(tensor not in layer.inputs for layer in layers)]
    results = draw(
        st.lists(st.sampled_from(draw(st.sampled_from((unread, tensors)))), min_size=1, max_size=2, unique=True)
    )
    graph = Graph(tuple(layers), dict.fromkeys(tensors, TYPE), ("in",), tuple(results))
    cost = st.integers(1, 40).map(lambda n: n * 1e-5)

    def options(layer: Layer) -> list[Priced]:
        found = []
        for number in range(draw(st.integers(1, 3))):
            ports = [Format(draw(st.sampled_from(LAYOUTS))) for _ in (*layer.inputs, *layer.outputs)]
            split = len(layer.inputs)
            variant = Variant((("n", number),), tuple(ports[:split]), tuple(ports[split:]))
            found.append((Candidate(graph.workload(layer), FAKE, variant), draw(cost)))
        return found

    priced = {layer.name: options(layer) for layer in layers}
    possible = []
    for size in (2, 3):
        for parts in itertools.combinations(layers, size):
            cover = Cover.of(graph, "fake", "all", {layer.name: layer for layer in parts})
            possible += [cover] if cover else []
    most = draw(st.integers(0, min(3, len(possible))))
    covers = draw(st.lists(st.sampled_from(possible), min_size=most, max_size=most, unique=True)) if most else []
    adapters = {(a, b): draw(cost) for a in LAYOUTS for b in LAYOUTS if a != b}
    return graph, priced, adapters, [(cover, options(cover.layer)) for cover in covers]


Unit = tuple[Layer, Priced]
"""A layer that is computed, be it a composite, and what computes it."""


def partitions(graph: Graph, priced: dict[str, list[Priced]], covers: Covers) -> Iterator[list[Unit]]:
    """Every way to compute each layer once."""
    for number in range(len(covers) + 1):
        for taken in itertools.combinations(covers, number):
            covered = [part for cover, _ in taken for part in cover.parts]
            if len(set(covered)) == len(covered):
                units = [(cover.layer, options) for cover, options in taken]
                units += [(layer, priced[layer.name]) for layer in graph.layers if layer.name not in covered]
                for choice in itertools.product(*(options for _, options in units)):
                    yield [(layer, option) for (layer, _), option in zip(units, choice, strict=True)]


def network_cost(graph: Graph, units: list[Unit], adapters: dict[Any, float]) -> float:
    """What is computed, plus each distinct conversion once."""
    source = {tensor: canonical_format(TYPE) for tensor in graph.inputs}
    read = {(tensor, canonical_format(TYPE)) for tensor in graph.outputs}
    for layer, (candidate, _) in units:
        source |= dict(zip(layer.outputs, candidate.variant.outputs, strict=True))
        read |= set(zip(layer.inputs, candidate.variant.inputs, strict=True))
    needed = {(source[tensor].layout, target.layout, tensor) for tensor, target in read if source[tensor] != target}
    return sum(cost for _, (_, cost) in units) + sum(adapters[a, b] for a, b, _ in needed)


def solved(
    graph: Graph, priced: Any, adapters: Any, covers: Covers | None = None
) -> tuple[NetworkProblem, tuple[int, ...], float]:
    every = (*priced.values(), *(found for _, found in covers or []))
    costs = {id(option): cost for found in every for option, cost in found}
    options = {name: [option for option, _ in found] for name, found in priced.items()}
    covered = [(cover, [option for option, _ in found]) for cover, found in covers or []]
    structure = Structure.of(graph, options, covered)
    problem = structure.problem(lambda option: costs[id(option)], lambda tensor, a, b: adapters[a.layout, b.layout])
    solution = solve(problem.pairwise)
    return problem, solution.states, solution.cost


def chosen_units(problem: NetworkProblem, states: tuple[int, ...]) -> list[Unit]:
    """What a solution computes; fails if it uses a part of a cover without the others."""
    units: list[Unit] = []
    parts: dict[Cover, list[str]] = {}
    for i, layer in enumerate(problem.graph.layers):
        state = problem.layer_states[i][states[i]]
        if state.cover is None:
            units.append((layer, (state.candidate, state.cost)))
        elif state.cover not in parts:
            units.append((state.cover.layer, (state.candidate, state.cost)))
        if state.cover is not None:
            parts.setdefault(state.cover, []).append(layer.name)
    assert all(tuple(names) == cover.parts for cover, names in parts.items())
    return units


@settings(max_examples=400)
@given(networks())
def test_equals_brute_force(network: Any) -> None:
    graph, priced, adapters, covers = network
    problem, states, cost = solved(graph, priced, adapters, covers)
    best = min(network_cost(graph, units, adapters) for units in partitions(graph, priced, covers))
    assert np.isclose(cost, best, rtol=1e-9)
    units = chosen_units(problem, states)
    assert np.isclose(network_cost(graph, units, adapters), best, rtol=1e-9)
    conversions = problem.conversions(states)
    assert len(set(conversions)) == len(conversions)
    paid = sum(adapters[a.layout, b.layout] for _, a, b in conversions)
    assert np.isclose(sum(c for _, (_, c) in units) + paid, best, rtol=1e-9)


@settings(max_examples=100)
@given(networks())
def test_marginals_are_the_best_plans_with_each_state(network: Any) -> None:
    graph, priced, adapters, covers = network
    problem, _, _ = solved(graph, priced, adapters, covers)
    best = marginals(problem.pairwise)
    ways = [(units, network_cost(graph, units, adapters)) for units in partitions(graph, priced, covers)]
    for i, layer in enumerate(graph.layers):
        for s, state in enumerate(problem.layer_states[i]):
            unit = (state.cover.layer if state.cover else layer, (state.candidate, state.cost))
            assert np.isclose(best[i][s], min(cost for units, cost in ways if unit in units), rtol=1e-9)


@settings(max_examples=50)
@given(networks())
def test_the_integer_programme_agrees(network: Any) -> None:
    graph, priced, adapters, covers = network
    problem, _, cost = solved(graph, priced, adapters, covers)
    core = FactorGraph.of(problem.pairwise)
    make_arc_consistent(core)  # the programme expects every state to be allowed
    found = solve_milp(core, 10.0)
    assert found.optimal
    assert np.isclose(found.lower, cost, rtol=1e-6)


@settings(max_examples=100)
@given(networks())
def test_simpler_problems_bound_the_optimum(network: Any) -> None:
    graph, priced, adapters, covers = network
    problem, _, cost = solved(graph, priced, adapters, covers)
    single = solve(problem.without_covers())
    assert np.isclose(single.cost, solved(graph, priced, adapters)[2], rtol=1e-9)
    assert solve(problem.without_conversions()).cost <= cost * (1 + 1e-9) <= single.cost * (1 + 2e-9)


def test_a_conversion_with_two_readers_is_paid_once() -> None:
    nchw, blocked = Format("NCHW"), Format("NCHW8c")
    layers = (
        Layer("a", "fake", 0, ("in",), ("x",)),
        Layer("b", "fake", 1, ("x",), ("y",)),
        Layer("c", "fake", 2, ("x",), ("z",)),
    )
    graph = Graph(layers, dict.fromkeys(("in", "x", "y", "z"), TYPE), ("in",), ("y", "z"))
    priced = {}
    for layer, source in zip(layers, (nchw, blocked, blocked), strict=True):
        variant = Variant((), (source,), (nchw,))
        priced[layer.name] = [(Candidate(graph.workloads[layer.name], FAKE, variant), 1e-3)]
    _, _, cost = solved(graph, priced, {(a, b): 1e-4 for a in LAYOUTS for b in LAYOUTS if a != b})
    assert np.isclose(cost, 3e-3 + 1e-4)
