"""Random small networks with made-up candidates, and every way to compute them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.formats import Format, TensorType
from softneuro_tvm.graph import Graph, Layer, Workload
from softneuro_tvm.layer_kind import Cover
from softneuro_tvm.routine import Candidate, Routine, Variant
from softneuro_tvm.selection.limited import LimitedProblem
from softneuro_tvm.selection.resources import Needs
from softneuro_tvm.selection.states import State
from softneuro_tvm.selection.structure import Structure

LAYOUTS = ("NCHW", "NHWC", "NCHW8c")


class Fake(Routine):
    name = "fake/fake"
    kind = "fake"
    source = "test"

    def variants(self, workload: Workload, device: Any) -> Iterable[Variant]:
        return ()

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        return 0.0

    def emit(self, workload: Workload, variant: Variant, device: Any) -> Any:
        raise AssertionError("never built")


FAKE = Fake()


@dataclass(frozen=True, eq=False)
class RandomNetwork:
    """A network, its candidates, and their prices and needs."""

    graph: Graph
    options: dict[str, list[Candidate]]
    covers: list[tuple[Cover, list[Candidate]]]
    prices: dict[int, float]
    adapters: dict[tuple[str, str], float]
    needs: dict[int, Needs]

    @property
    def problem(self) -> LimitedProblem:
        return LimitedProblem(
            Structure.of(self.graph, self.options, self.covers),
            lambda option: self.prices[id(option)],
            lambda tensor, a, b: self.adapters[a.layout, b.layout],
            lambda option: self.needs[id(option)],
            lambda tensor, a, b: self.adapters[a.layout, b.layout] == 0.0,
        )

    def choices(self) -> Iterator[dict[str, State]]:
        """Every way to compute each layer once."""
        for number in range(len(self.covers) + 1):
            for taken in itertools.combinations(self.covers, number):
                covered = [part for cover, _ in taken for part in cover.parts]
                if len(set(covered)) < len(covered):
                    continue
                single = [name for name in self.options if name not in covered]
                offered = [options for _, options in taken] + [self.options[name] for name in single]
                for choice in itertools.product(*offered):
                    chosen = {}
                    for (cover, _), option in zip(taken, choice, strict=False):
                        state = State(option, self.prices[id(option)], cover)
                        chosen |= dict.fromkeys(cover.parts, state)
                    for name, option in zip(single, choice[len(taken) :], strict=True):
                        chosen[name] = State(option, self.prices[id(option)])
                    yield chosen


def random_network(rng: np.random.Generator, layers: int = 4, options: int = 3, joins: bool = False) -> RandomNetwork:
    """Up to so many layers of one or two inputs and outputs; ties, views and in-place outputs are frequent.

    With `joins`, many layers may join their inputs in place, where `share_memory` would permit it.
    """
    tensors, made = ["in"], list[Layer]()
    for i in range(int(rng.integers(1, layers + 1))):
        recent = rng.random() < 0.6
        inputs = (tensors[-1],) if recent else tuple(rng.choice(tensors, int(rng.integers(1, 3))).tolist())
        if joins and len(tensors) > 2 and rng.random() < 0.5:
            inputs = tuple(rng.choice(tensors[1:][-4:], 2, replace=False).tolist())
        outputs = tuple([f"t{i}", f"u{i}"][: 1 + int(rng.random() < 0.2)])
        made.append(Layer(f"l{i}", "fake", i, inputs, outputs))
        tensors += outputs
    unread = [tensor for tensor in tensors if all(tensor not in layer.inputs for layer in made)]
    results = tuple(dict.fromkeys(rng.choice(unread if rng.random() < 0.7 else tensors, 2).tolist()))
    results = (tensors[-1],) if joins else results
    types = {tensor: TensorType((1, int(rng.choice([3, 8, 12])), 4, 4)) for tensor in tensors}
    may_view, joined = set[str](), set[str]()
    if joins:
        one_to_one = [layer.name for layer in made if len(layer.inputs) == len(layer.outputs) == 1]
        may_view = {name for name in one_to_one if rng.random() < 0.3}
        joined = _joins(made, results, may_view)
    for layer in (layer for layer in made if layer.name in joined):
        channels = sum(types[tensor].shape[1] for tensor in layer.inputs)
        types[layer.outputs[0]] = TensorType((1, channels, 4, 4))
    written = {tensor for layer in made if layer.name in joined for tensor in layer.inputs}
    graph = Graph(tuple(made), types, ("in",), results)
    prices: dict[int, float] = {}
    needs: dict[int, Needs] = {}

    def offered(layer: Layer) -> list[Candidate]:
        found = []
        if layer.name in joined:
            ports = (Format("NCHW"),) * 3
            found.append(Candidate(graph.workload(layer), FAKE, Variant((("n", -1),), ports[:2], ports[2:])))
            prices[id(found[0])] = 0.0
            needs[id(found[0])] = Needs(0.0, 0, 0, (), True)
        for number in range(int(rng.integers(1, options + 1))):
            ports = [Format(str(rng.choice(LAYOUTS))) for _ in (*layer.inputs, *layer.outputs)]
            split = len(layer.inputs)
            variant = Variant((("n", number),), tuple(ports[:split]), tuple(ports[split:]))
            option = Candidate(graph.workload(layer), FAKE, variant)
            viewed = layer.name in may_view if joins else len(layer.inputs) == len(layer.outputs) == 1
            viewed = viewed and layer.outputs[0] not in written
            is_view = bool(viewed and rng.random() < 0.1 and _same(types, layer, variant, 0))
            in_place = [i for i in range(split) if len(layer.outputs) == 1 and _same(types, layer, variant, i)]
            in_place = [i for i in in_place if rng.random() < 0.5]
            prices[id(option)] = 0.0 if is_view else int(rng.integers(1, 20)) * 1e-5
            error, workspace, weights = rng.integers(0, 6, 3).tolist()
            needs[id(option)] = Needs(error * 1e-6, workspace * 64, weights * 1000, tuple(in_place), is_view)
            found.append(option)
        return found

    every = {layer.name: offered(layer) for layer in made}
    possible = [
        cover
        for size in (2, 3)
        for parts in itertools.combinations(made, size)
        if (cover := Cover.of(graph, "fake", "all", {layer.name: layer for layer in parts})) is not None
    ]
    taken = [cover for cover in possible if rng.random() < 0.4][:2]
    covers = [(cover, offered(cover.layer)) for cover in taken]
    adapters = {(a, b): int(rng.integers(0, 8)) * 1e-5 for a in LAYOUTS for b in LAYOUTS if a != b}
    if rng.random() < 0.7:
        adapters = {pair: max(price, 1e-5) for pair, price in adapters.items()}
    return RandomNetwork(graph, every, covers, prices, adapters, needs)


def _joins(layers: list[Layer], results: tuple[str, ...], may_view: set[str]) -> set[str]:
    """Layers of two inputs that layers write, that the model does not return, and that no other of these layers reads.

    Tensors that may be views of the model's inputs or outputs are left out.
    """
    found, taken = set[str](), {"in", *results}
    for _ in layers:
        for layer in layers:
            if layer.name in may_view and taken & {*layer.inputs, *layer.outputs}:
                taken |= {*layer.inputs, *layer.outputs}
    for layer in layers:
        inputs = set(layer.inputs)
        if len(inputs) == 2 and len(layer.outputs) == 1 and not taken & {*inputs, *layer.outputs}:
            found.add(layer.name)
            taken |= inputs
    return found


def _same(types: dict[str, TensorType], layer: Layer, variant: Variant, position: int) -> bool:
    """Whether an input lies in memory as the output does."""
    source, target = types[layer.inputs[position]], types[layer.outputs[0]]
    return (source, variant.inputs[position]) == (target, variant.outputs[0])
