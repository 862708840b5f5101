"""Turns a measured graph into the pairwise problem that the solver minimises.

Variables: one for each layer (its states are the distinct port formats its candidates offer, each at the price of the
fastest candidate), and one for each tensor with several readers (its states are the sets of formats in which the tensor
is made available, so that a conversion several readers share is paid once). A candidate that covers several layers is a
state of each of them: the last one pays for it, and tables of zeros and infinities tie all of them to be in it
together. Every cost then belongs to one variable or to one pair, and the optimum of the pairwise problem is the optimum
of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from softneuro_tvm.errors import SelectionError
from softneuro_tvm.formats import Format, TensorType, canonical_format
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.layer_kind import Cover
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
        if self.cover is None:
            return self.candidate.variant.inputs[port]
        position = self.cover.ports.get((layer.name, port))
        return None if position is None else self.candidate.variant.inputs[position]

    def writes(self, layer: Layer, port: int) -> Format | None:
        """Format in which the layer writes an output; None if it is passed on inside the cover."""
        if self.cover is not None and layer.name != self.cover.parts[-1]:
            return None
        return self.candidate.variant.outputs[port]

    def price(self, layer: Layer) -> float:
        """What the layer's variable pays: the last layer of a cover pays for all."""
        return self.cost if self.cover is None or layer.name == self.cover.parts[-1] else 0.0


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

    def conversions(self, states: Sequence[int]) -> list[tuple[str, Format, Format]]:
        """The adapters that a solution needs: tensor, source format, target format, each once, in a fixed order."""
        chosen = {layer.name: self.layer_states[i][states[i]] for i, layer in enumerate(self.graph.layers)}
        needed: dict[tuple[str, Format, Format], None] = {}
        for tensor in self.graph.tensors:
            producer = self.graph.producer.get(tensor)
            source: Format | None = canonical_format(self.graph.tensors[tensor])
            if producer is not None:
                source = chosen[producer.name].writes(producer, producer.outputs.index(tensor))
            if source is None:
                continue
            read = {chosen[reader.name].reads(reader, port) for reader, port in self.graph.readers[tensor]}
            targets = {target for target in read if target is not None}
            if tensor in self.graph.outputs:
                targets.add(canonical_format(self.graph.tensors[tensor]))
            needed |= {(tensor, source, target): None for target in sorted(targets) if target != source}
        return list(needed)

    def without_covers(self) -> PairwiseProblem:
        """The problem in which each layer is computed by itself."""
        unary = list(self.pairwise.unary)
        for i, options in enumerate(self.layer_states):
            unary[i] = np.where([option.cover is None for option in options], unary[i], np.inf)
        return PairwiseProblem(tuple(unary), self.pairwise.pairwise)

    def without_conversions(self) -> PairwiseProblem:
        """The problem in which conversions between layers cost nothing."""
        return PairwiseProblem(self.pairwise.unary, self.ties)


def build_problem(
    graph: Graph,
    priced: Mapping[str, Sequence[Priced]],
    adapter_cost: AdapterCost,
    covers: Sequence[tuple[Cover, Sequence[Priced]]] = (),
) -> NetworkProblem:
    """Builds the problem.

    Args:
        graph: The network.
        priced: Usable candidates of each layer, by layer name.
        adapter_cost: Price of converting a tensor.
        covers: Layers that can be computed at once, with the usable candidates; they may overlap.

    Raises:
        SelectionError: a layer without a usable candidate.
    """
    return _Builder(graph, priced, adapter_cost, covers).build()


class _Builder:
    def __init__(
        self,
        graph: Graph,
        priced: Mapping[str, Sequence[Priced]],
        adapter_cost: AdapterCost,
        covers: Sequence[tuple[Cover, Sequence[Priced]]],
    ) -> None:
        self.graph = graph
        self.adapter_cost = adapter_cost
        self.states: list[list[State]] = []
        for layer in graph.layers:
            if not priced[layer.name]:
                raise SelectionError(f"layer {layer.name!r}: no candidate could be measured; see `--json` for reasons")
            self.states.append([State(*option) for option in best_by_ports(priced[layer.name]).values()])
        self.index = {layer.name: i for i, layer in enumerate(graph.layers)}
        for cover, options in covers:
            shared = [State(*option, cover) for option in best_by_ports(options).values()]
            for part in cover.parts:
                self.states[self.index[part]] += shared
        self.unary: list[Table] = [
            np.array([state.price(layer) for state in options], float)
            for layer, options in zip(graph.layers, self.states, strict=True)
        ]
        self.pairwise: dict[tuple[int, int], Table] = {}
        self.ties: dict[tuple[int, int], Table] = {}
        self.shared: list[tuple[str, tuple[tuple[Format, ...], ...]]] = []

    def build(self) -> NetworkProblem:
        self._add_ties()
        for tensor in self.graph.tensors:
            ports = self.graph.readers[tensor]
            if len(ports) + (tensor in self.graph.outputs) > 1:
                self._add_shared(tensor, ports)
            elif ports:
                self._add_reader(tensor, *ports[0])
            elif tensor in self.graph.outputs:
                self._add_output(tensor)
        problem = PairwiseProblem(tuple(self.unary), self.pairwise)
        tensors, sets = tuple(tensor for tensor, _ in self.shared), tuple(sets for _, sets in self.shared)
        states = tuple(tuple(options) for options in self.states)
        return NetworkProblem(self.graph, problem, self.ties, states, tensors, sets)

    def _add_ties(self) -> None:
        """Ties each part of a cover to the parts that read from it: both are in the same of its states, or neither.

        All parts lead to the last one, so that this ties them all, along edges that the graph has anyway.
        """
        pairs: dict[tuple[int, int], None] = {}
        inside: dict[tuple[int, int], set[Cover]] = {}
        for i, layer in enumerate(self.graph.layers):
            covers = dict.fromkeys(state.cover for state in self.states[i] if state.cover is not None)
            readers = [reader for tensor in layer.outputs for reader, _ in self.graph.readers[tensor]]
            for cover in covers:
                for reader in readers if layer.name != cover.parts[-1] else []:
                    pair = (i, self.index[reader.name])
                    pairs[pair] = None
                    inside.setdefault(pair, set()).add(cover)
        for i, j in pairs:
            own, other = self.states[i], self.states[j]
            tied = inside[i, j]
            costs = np.zeros((len(own), len(other)))
            for a, first in enumerate(own):
                for b, second in enumerate(other):
                    if first is not second and (first.cover in tied or second.cover in tied):
                        costs[a, b] = np.inf
            self.ties[i, j] = costs
            self._add_pair(i, j, costs)

    def _cost(self, tensor: str, source: Format | None, target: Format | None) -> float:
        """Price of a conversion; nothing where the tensor stays inside a cover, which ties see to."""
        if source is None or target is None or source == target:
            return 0.0
        return self.adapter_cost(self.graph.tensors[tensor], source, target)

    def _produced(self, tensor: str) -> list[Format | None]:
        """Format of a tensor in each state of its producer; canonical only for model inputs."""
        producer = self.graph.producer.get(tensor)
        if producer is None:
            return [canonical_format(self.graph.tensors[tensor])]
        port = producer.outputs.index(tensor)
        return [state.writes(producer, port) for state in self.states[self.index[producer.name]]]

    def _read(self, reader: Layer, port: int) -> list[Format | None]:
        return [state.reads(reader, port) for state in self.states[self.index[reader.name]]]

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
        read = [target for reader, port in ports for target in self._read(reader, port)]
        wanted = dict.fromkeys(target for target in read if target is not None)
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
            targets = self._read(reader, port)
            allowed = np.array([[0.0 if target is None or target in s else np.inf for s in sets] for target in targets])
            self._add_pair(self.index[reader.name], variable, allowed)
