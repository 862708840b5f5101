"""What a layer may be computed by, what a choice for all layers needs, and the problem that the choices make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from softneuro_tvm.formats import Format, TensorType, canonical_format
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.layer_kind import Cover
from softneuro_tvm.routine import Candidate, Variant
from softneuro_tvm.selection.pairwise import PairwiseProblem, Table

Ports = tuple[tuple[Format, ...], tuple[Format, ...]]
"""Input and output formats of a candidate."""
AdapterCost = Callable[[TensorType, Format, Format], float]
"""Seconds of a conversion; inf where there is none."""
Priced = tuple[Candidate, float]
"""A candidate and its median in seconds."""


def tie_break(candidate: Candidate) -> tuple[str, str]:
    """Which of equally fast candidates with equal ports is taken: the first by name and parameters."""
    return candidate.routine.name, candidate.variant.params_text


@dataclass(frozen=True, eq=False)
class State:
    """What a layer's variable may be in.

    Args:
        candidate: What computes the layer.
        cost: Its median in seconds.
        cover: The layers that the candidate computes at once, if not this one only; all of them share the state.
    """

    candidate: Candidate
    cost: float
    cover: Cover | None = None

    def reads(self, layer: Layer, port: int) -> Format | None:
        """Format in which the layer reads an input; None if it is passed on inside the cover."""
        return read_format(self.candidate.variant, self.cover, layer, port)

    def writes(self, layer: Layer, port: int) -> Format | None:
        """Format in which the layer writes an output; None if it is passed on inside the cover."""
        return written_format(self.candidate.variant, self.cover, layer, port)

    def price(self, layer: Layer) -> float:
        """What the layer's variable pays: the last layer of a cover pays for all."""
        return self.cost if self.cover is None or layer.name == self.cover.parts[-1] else 0.0

    @property
    def identity(self) -> tuple[Cover | None, Ports]:
        """What states of one layer differ in: the cover and the formats."""
        return self.cover, (self.candidate.variant.inputs, self.candidate.variant.outputs)


def read_format(variant: Variant, cover: Cover | None, layer: Layer, port: int) -> Format | None:
    """Format in which a candidate reads a layer's input; None if it is passed on inside the cover."""
    if cover is None:
        return variant.inputs[port]
    position = cover.ports.get((layer.name, port))
    return None if position is None else variant.inputs[position]


def written_format(variant: Variant, cover: Cover | None, layer: Layer, port: int) -> Format | None:
    """Format in which a candidate writes a layer's output; None if it is passed on inside the cover."""
    return None if cover is not None and layer.name != cover.parts[-1] else variant.outputs[port]


def conversions(graph: Graph, chosen: Mapping[str, State]) -> list[tuple[str, Format, Format]]:
    """The adapters that a choice needs: tensor, source format, target format, each once, in a fixed order.

    Args:
        graph: The network.
        chosen: The state of each layer by its name.
    """
    needed: dict[tuple[str, Format, Format], None] = {}
    for tensor in graph.tensors:
        producer = graph.producer.get(tensor)
        source: Format | None = canonical_format(graph.tensors[tensor])
        if producer is not None:
            source = chosen[producer.name].writes(producer, producer.outputs.index(tensor))
        if source is None:
            continue
        read = {chosen[reader.name].reads(reader, port) for reader, port in graph.readers[tensor]}
        targets = {target for target in read if target is not None}
        if tensor in graph.outputs:
            targets.add(canonical_format(graph.tensors[tensor]))
        needed |= {(tensor, source, target): None for target in sorted(targets) if target != source}
    return list(needed)


def total_cost(graph: Graph, chosen: Mapping[str, State], adapter_cost: AdapterCost) -> float:
    """Seconds of a choice, conversions included; inf where one does not exist."""
    own = sum(chosen[layer.name].price(layer) for layer in graph.layers)
    return own + sum(adapter_cost(graph.tensors[t], source, target) for t, source, target in conversions(graph, chosen))


@dataclass(frozen=True, eq=False)
class NetworkProblem:
    """The pairwise problem of a network, and what its variables and states mean.

    Args:
        graph: The network.
        pairwise: Costs in seconds.
        ties: The part of the pairwise tables that keeps the layers of a cover together: zeros and infinities.
        layer_states: For each layer (the first variables, in the graph's order) its states, those of covers last.
        shared_tensors: Tensors with several readers (the further variables).
        shared_states: For each of them its states: sets of available formats.
    """

    graph: Graph
    pairwise: PairwiseProblem
    ties: Mapping[tuple[int, int], Table]
    layer_states: tuple[tuple[State, ...], ...]
    shared_tensors: tuple[str, ...]
    shared_states: tuple[tuple[tuple[Format, ...], ...], ...]

    def chosen(self, states: Sequence[int]) -> dict[str, State]:
        """The state of each layer in a solution, by the layer's name."""
        return {layer.name: self.layer_states[i][states[i]] for i, layer in enumerate(self.graph.layers)}

    def conversions(self, states: Sequence[int]) -> list[tuple[str, Format, Format]]:
        """The adapters that a solution needs: tensor, source format, target format, each once, in a fixed order."""
        return conversions(self.graph, self.chosen(states))

    def without_covers(self) -> PairwiseProblem:
        """The problem in which each layer is computed by itself, where it can be."""
        unary = list(self.pairwise.unary)
        for i, options in enumerate(self.layer_states):
            unary[i] = np.where([option.cover is None for option in options], unary[i], np.inf)
        return PairwiseProblem(tuple(unary), self.pairwise.pairwise)

    def without_conversions(self) -> PairwiseProblem:
        """The problem in which conversions between layers cost nothing."""
        return PairwiseProblem(self.pairwise.unary, self.ties)
