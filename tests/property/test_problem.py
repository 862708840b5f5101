"""DPRS on whole graphs equals brute force: shared conversions are paid once, on any directed acyclic graph."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from softneuro_tvm.formats import Format, TensorType, canonical_format
from softneuro_tvm.graph import Graph, Layer, Workload
from softneuro_tvm.routine import Candidate, Routine, Variant
from softneuro_tvm.selection.problem import NetworkProblem, build_problem
from softneuro_tvm.selection.solver import solve

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


@st.composite
def networks(draw: st.DrawFn) -> tuple[Graph, dict[str, list[tuple[Candidate, float]]], dict[Any, float]]:
    count = draw(st.integers(1, 5))
    tensors = ["in"]
    layers = []
    for i in range(count):
        inputs = draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=2))
        outputs = [f"t{i}", f"u{i}"][: draw(st.integers(1, 2))]
        layers.append(Layer(f"l{i}", "fake", i, tuple(inputs), tuple(outputs)))
        tensors += outputs
    results = draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=2, unique=True))
    graph = Graph(tuple(layers), dict.fromkeys(tensors, TYPE), ("in",), tuple(results))
    cost = st.integers(1, 40).map(lambda n: n * 1e-5)
    priced: dict[str, list[tuple[Candidate, float]]] = {}
    for layer in layers:
        options = []
        for number in range(draw(st.integers(1, 3))):
            ports = [Format(draw(st.sampled_from(LAYOUTS))) for _ in (*layer.inputs, *layer.outputs)]
            split = len(layer.inputs)
            variant = Variant((("n", number),), tuple(ports[:split]), tuple(ports[split:]))
            options.append((Candidate(graph.workloads[layer.name], FAKE, variant), draw(cost)))
        priced[layer.name] = options
    adapters = {(a, b): draw(cost) for a in LAYOUTS for b in LAYOUTS if a != b}
    return graph, priced, adapters


def network_cost(graph: Graph, chosen: dict[str, tuple[Candidate, float]], adapters: dict[Any, float]) -> float:
    """Layers plus each distinct conversion once."""
    total = sum(cost for _, cost in chosen.values())
    needed = set()
    for tensor in graph.tensors:
        producer = graph.producer.get(tensor)
        source = canonical_format(TYPE)
        if producer is not None:
            source = chosen[producer.name][0].variant.outputs[producer.outputs.index(tensor)]
        targets = {chosen[reader.name][0].variant.inputs[port] for reader, port in graph.readers[tensor]}
        if tensor in graph.outputs:
            targets.add(canonical_format(TYPE))
        needed |= {(tensor, source.layout, target.layout) for target in targets if target != source}
    return total + sum(adapters[a, b] for _, a, b in needed)


def solved(graph: Graph, priced: Any, adapters: Any) -> tuple[NetworkProblem, tuple[int, ...], float]:
    problem = build_problem(graph, priced, lambda tensor, a, b: adapters[a.layout, b.layout])
    solution = solve(problem.pairwise)
    return problem, solution.states, solution.cost


@settings(max_examples=300, deadline=None)
@given(networks())
def test_equals_brute_force(network: Any) -> None:
    graph, priced, adapters = network
    problem, states, cost = solved(graph, priced, adapters)
    names = [layer.name for layer in graph.layers]
    best = min(
        network_cost(graph, dict(zip(names, choice, strict=True)), adapters)
        for choice in itertools.product(*(priced[name] for name in names))
    )
    assert np.isclose(cost, best, rtol=1e-9)
    chosen = {name: problem.layer_states[i][states[i]] for i, name in enumerate(names)}
    assert np.isclose(network_cost(graph, chosen, adapters), best, rtol=1e-9)
    conversions = problem.conversions(states)
    assert len(set(conversions)) == len(conversions)
    paid = sum(adapters[a.layout, b.layout] for _, a, b in conversions)
    assert np.isclose(sum(c for _, c in chosen.values()) + paid, best, rtol=1e-9)


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
