"""Turns a measured graph into the pairwise problem that the solver minimises.

Variables: one for each layer (its states are the distinct port formats its candidates offer, each at the price of the
fastest candidate), and one for each tensor with several readers (its states are the sets of formats in which the tensor
is made available, so that a conversion several readers share is paid once). Every cost then belongs to one variable or
to one pair, and the optimum of the pairwise problem is the optimum of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from softneuro_tvm.errors import SelectionError
from softneuro_tvm.formats import Format, TensorType, canonical_format
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection.pairwise import PairwiseProblem, Table

Ports = tuple[tuple[Format, ...], tuple[Format, ...]]
"""Input and output formats of a candidate."""
AdapterCost = Callable[[TensorType, Format, Format], float]
"""Seconds of a conversion; inf where there is none."""
Priced = tuple[Candidate, float]
"""A candidate and its median in seconds."""

_SHARED_FORMATS = 6


def best_by_ports(options: Sequence[Priced]) -> dict[Ports, Priced]:
    """The fastest candidate for each combination of port formats; ties go to the first."""
    best: dict[Ports, Priced] = {}
    for candidate, cost in options:
        ports = (candidate.variant.inputs, candidate.variant.outputs)
        if ports not in best or cost < best[ports][1]:
            best[ports] = (candidate, cost)
    return best


@dataclass(frozen=True, eq=False)
class NetworkProblem:
    """The pairwise problem of a network, and what its variables and states mean.

    Args:
        graph: The network.
        pairwise: Costs in seconds.
        layer_states: For each layer (the first variables, in the graph's order) its states.
        shared_tensors: Tensors with several readers (the further variables).
        shared_states: For each of them its states: sets of available formats.
    """

    graph: Graph
    pairwise: PairwiseProblem
    layer_states: tuple[tuple[Priced, ...], ...]
    shared_tensors: tuple[str, ...]
    shared_states: tuple[tuple[tuple[Format, ...], ...], ...]

    def conversions(self, states: Sequence[int]) -> list[tuple[str, Format, Format]]:
        """The adapters that a solution needs: tensor, source format, target format, each once, in a fixed order."""
        chosen = {layer.name: self.layer_states[i][states[i]][0].variant for i, layer in enumerate(self.graph.layers)}
        needed: dict[tuple[str, Format, Format], None] = {}
        for tensor in self.graph.tensors:
            producer = self.graph.producer.get(tensor)
            source = canonical_format(self.graph.tensors[tensor])
            if producer is not None:
                source = chosen[producer.name].outputs[producer.outputs.index(tensor)]
            targets = [chosen[reader.name].inputs[port] for reader, port in self.graph.readers[tensor]]
            if tensor in self.graph.outputs:
                targets.append(canonical_format(self.graph.tensors[tensor]))
            needed |= {(tensor, source, target): None for target in sorted(set(targets)) if target != source}
        return list(needed)


def build_problem(graph: Graph, priced: Mapping[str, Sequence[Priced]], adapter_cost: AdapterCost) -> NetworkProblem:
    """Builds the problem.

    Args:
        graph: The network.
        priced: Usable candidates of each layer, by layer name.
        adapter_cost: Price of converting a tensor.

    Raises:
        SelectionError: a layer without a usable candidate.
    """
    return _Builder(graph, priced, adapter_cost).build()


class _Builder:
    def __init__(self, graph: Graph, priced: Mapping[str, Sequence[Priced]], adapter_cost: AdapterCost) -> None:
        self.graph = graph
        self.adapter_cost = adapter_cost
        self.states: list[tuple[Priced, ...]] = []
        for layer in graph.layers:
            if not priced[layer.name]:
                raise SelectionError(f"layer {layer.name!r}: no candidate could be measured; see `--json` for reasons")
            self.states.append(tuple(best_by_ports(priced[layer.name]).values()))
        self.unary: list[Table] = [np.array([cost for _, cost in options], float) for options in self.states]
        self.pairwise: dict[tuple[int, int], Table] = {}
        self.index = {layer.name: i for i, layer in enumerate(graph.layers)}
        self.shared: list[tuple[str, tuple[tuple[Format, ...], ...]]] = []

    def build(self) -> NetworkProblem:
        for tensor in self.graph.tensors:
            ports = self.graph.readers[tensor]
            if len(ports) + (tensor in self.graph.outputs) > 1:
                self._add_shared(tensor, ports)
            elif ports:
                self._add_reader(tensor, *ports[0])
            elif tensor in self.graph.outputs:
                self._add_output(tensor)
        problem = PairwiseProblem(tuple(self.unary), self.pairwise)
        tensors = tuple(tensor for tensor, _ in self.shared)
        return NetworkProblem(self.graph, problem, tuple(self.states), tensors, tuple(sets for _, sets in self.shared))

    def _cost(self, tensor: str, source: Format, target: Format) -> float:
        return 0.0 if source == target else self.adapter_cost(self.graph.tensors[tensor], source, target)

    def _produced(self, tensor: str) -> list[Format]:
        """Format of a tensor in each state of its producer; canonical only for model inputs."""
        producer = self.graph.producer.get(tensor)
        if producer is None:
            return [canonical_format(self.graph.tensors[tensor])]
        port = producer.outputs.index(tensor)
        return [candidate.variant.outputs[port] for candidate, _ in self.states[self.index[producer.name]]]

    def _read(self, reader: Layer, port: int) -> list[Format]:
        return [candidate.variant.inputs[port] for candidate, _ in self.states[self.index[reader.name]]]

    def _connect(self, tensor: str, other: int, costs: Table) -> None:
        """Adds costs [producer state, state of `other`]; a model input has one state and no variable."""
        producer = self.graph.producer.get(tensor)
        if producer is None:
            self.unary[other] = self.unary[other] + costs[0]
        else:
            self._add_pair(self.index[producer.name], other, costs)

    def _add_pair(self, i: int, j: int, costs: Table) -> None:
        if i > j:
            i, j, costs = j, i, costs.T
        present = self.pairwise.get((i, j))
        self.pairwise[i, j] = costs if present is None else present + costs

    def _add_reader(self, tensor: str, reader: Layer, port: int) -> None:
        read = self._read(reader, port)
        costs = np.array([[self._cost(tensor, source, target) for target in read] for source in self._produced(tensor)])
        self._connect(tensor, self.index[reader.name], costs)

    def _add_output(self, tensor: str) -> None:
        producer = self.graph.producer.get(tensor)
        if producer is None:
            return
        target = canonical_format(self.graph.tensors[tensor])
        costs = [self._cost(tensor, source, target) for source in self._produced(tensor)]
        i = self.index[producer.name]
        self.unary[i] = self.unary[i] + np.array(costs)

    def _add_shared(self, tensor: str, ports: list[tuple[Layer, int]]) -> None:
        wanted = dict.fromkeys(target for reader, port in ports for target in self._read(reader, port))
        canonical = canonical_format(self.graph.tensors[tensor])
        is_output = tensor in self.graph.outputs
        if is_output:
            wanted[canonical] = None
        sizes = range(1, min(len(wanted), len(ports) + is_output, _SHARED_FORMATS) + 1)
        sets = tuple(s for size in sizes for s in combinations(wanted, size) if not is_output or canonical in s)
        variable = len(self.unary)
        self.unary.append(np.zeros(len(sets)))
        self.shared.append((tensor, sets))
        produced = self._produced(tensor)
        costs = np.array([[sum(self._cost(tensor, source, f) for f in s) for s in sets] for source in produced])
        self._connect(tensor, variable, costs)
        for reader, port in ports:
            read = self._read(reader, port)
            allowed = np.array([[0.0 if target in s else np.inf for s in sets] for target in read])
            self._add_pair(self.index[reader.name], variable, allowed)
