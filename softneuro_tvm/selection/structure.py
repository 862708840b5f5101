"""Turns a network into the pairwise problem that the solver minimises.

Variables: one for each layer (its states are the distinct port formats its candidates offer, each at the price of the
fastest candidate), and one for each tensor with several readers (its states are the sets of formats in which the tensor
is made available, so that a conversion several readers share is paid once). A candidate that covers several layers is a
state of each of them: the last one pays for it, and tables of zeros and infinities tie all of them to be in it
together. Every cost then belongs to one variable or to one pair, and the optimum of the pairwise problem is the optimum
of the network.

Which states there are and which tables connect them does not depend on prices. Building that once and pricing it many
times is what makes it cheap to ask how a plan would change if a candidate were faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from softneuro_tvm.errors import SelectionError
from softneuro_tvm.formats import Format, canonical_format
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.layer_kind import Cover
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection.pairwise import PairwiseProblem, Table
from softneuro_tvm.selection.states import (
    AdapterCost,
    NetworkProblem,
    State,
    read_format,
    tie_break,
    written_format,
)

Price = Callable[[Candidate], float]
"""Seconds of a candidate; inf if it must not be used."""

_SHARED_FORMATS = 6


@dataclass(frozen=True, eq=False)
class Slot:
    """The candidates of a layer, or of a cover, that have the same ports: one state of the pairwise problem.

    Args:
        candidates: In the order in which equally fast ones are taken.
        cover: What they compute at once, if not one layer only.
    """

    candidates: tuple[Candidate, ...]
    cover: Cover | None = None

    def cheapest(self, price: Price) -> State:
        """The state of the fastest candidate."""
        best = min(self.candidates, key=price)
        return State(best, price(best), self.cover)

    def reads(self, layer: Layer, port: int) -> Format | None:
        """Format in which the layer reads an input; None if it is passed on inside the cover."""
        return read_format(self.candidates[0].variant, self.cover, layer, port)

    def writes(self, layer: Layer, port: int) -> Format | None:
        """Format in which the layer writes an output; None if it is passed on inside the cover."""
        return written_format(self.candidates[0].variant, self.cover, layer, port)


@dataclass(frozen=True, eq=False)
class _Conversion:
    """A table, or a vector, of the prices of conversions of one tensor.

    Args:
        tensor: Name.
        scope: The variables, ascending: one or two.
        formats: Formats of the tensor.
        sources: Position in `formats` of each row; -1 where nothing is written.
        targets: Which formats each column needs. Shape (columns, formats).
    """

    tensor: str
    scope: tuple[int, ...]
    formats: tuple[Format, ...]
    sources: NDArray[np.intp]
    targets: NDArray[np.bool_]

    def priced(self, graph: Graph, adapter_cost: AdapterCost) -> Table:
        """The costs in seconds."""
        tensor = graph.tensors[self.tensor]
        used = np.unique(self.sources[self.sources >= 0])
        wanted = np.flatnonzero(self.targets.any(axis=0))
        costs = np.zeros((len(self.formats) + 1, len(self.formats)))
        for source in used:
            for target in wanted[wanted != source]:
                costs[source, target] = adapter_cost(tensor, self.formats[source], self.formats[target])
        missing = np.isinf(costs)
        rows = np.where(missing, 0.0, costs) @ self.targets.T
        if missing.any():
            rows[missing @ self.targets.T] = np.inf
        table: Table = rows[self.sources]
        return table.reshape(-1) if len(self.scope) == 1 else table


@dataclass(frozen=True, eq=False)
class Structure:
    """States and tables of a network's problem, without prices.

    Args:
        graph: The network.
        slots: For each layer its states, those of covers last; the layers of a cover share its slots.
        shared_tensors: Tensors with several readers: the variables after those of the layers.
        shared_states: For each of them its states: sets of available formats.
    """

    graph: Graph
    slots: tuple[tuple[Slot, ...], ...]
    shared_tensors: tuple[str, ...]
    shared_states: tuple[tuple[tuple[Format, ...], ...], ...]
    _ties: Mapping[tuple[int, int], Table] = field(repr=False)
    _allowed: Mapping[tuple[int, int], Table] = field(repr=False)
    _conversions: tuple[_Conversion, ...] = field(repr=False)

    @staticmethod
    def of(
        graph: Graph,
        options: Mapping[str, Sequence[Candidate]],
        covers: Sequence[tuple[Cover, Sequence[Candidate]]] = (),
    ) -> Structure:
        """Builds the structure.

        Args:
            graph: The network.
            options: Candidates of each layer, by layer name.
            covers: Layers that can be computed at once, with the candidates; they may overlap.

        Raises:
            SelectionError: a layer that nothing computes.
        """
        return _Builder(graph, options, covers).build()

    def problem(self, price: Price, adapter_cost: AdapterCost) -> NetworkProblem:
        """The pairwise problem at some prices.

        Args:
            price: Of a candidate, in seconds; inf forbids it.
            adapter_cost: Price of converting a tensor.
        """
        made: dict[int, State] = {}
        for slot in (slot for slots in self.slots for slot in slots):
            if id(slot) not in made:
                made[id(slot)] = slot.cheapest(price)
        states = tuple(tuple(made[id(slot)] for slot in slots) for slots in self.slots)
        unary: list[Table] = [
            np.array([state.price(layer) for state in own], float)
            for layer, own in zip(self.graph.layers, states, strict=True)
        ]
        unary += [np.zeros(len(sets)) for sets in self.shared_states]
        pairwise: dict[tuple[int, int], Table] = {**self._ties}
        for edge, table in self._allowed.items():
            pairwise[edge] = pairwise[edge] + table if edge in pairwise else table
        for conversion in self._conversions:
            costs = conversion.priced(self.graph, adapter_cost)
            if len(conversion.scope) == 1:
                unary[conversion.scope[0]] = unary[conversion.scope[0]] + costs
            else:
                edge = (conversion.scope[0], conversion.scope[1])
                pairwise[edge] = pairwise[edge] + costs if edge in pairwise else costs
        problem = PairwiseProblem(tuple(unary), pairwise)
        return NetworkProblem(self.graph, problem, self._ties, states, self.shared_tensors, self.shared_states)


class _Builder:
    def __init__(
        self,
        graph: Graph,
        options: Mapping[str, Sequence[Candidate]],
        covers: Sequence[tuple[Cover, Sequence[Candidate]]],
    ) -> None:
        self.graph = graph
        self.index = {layer.name: i for i, layer in enumerate(graph.layers)}
        self.grouped: dict[tuple[int, ...], list[tuple[Candidate, ...]]] = {}
        self.slots = [[Slot(group) for group in self._groups(options[layer.name])] for layer in graph.layers]
        for cover, found in sorted(covers, key=lambda item: self._place(item[0])):
            shared = [Slot(group, cover) for group in self._groups(found)]
            for part in cover.parts:
                self.slots[self.index[part]] += shared
        for layer, slots in zip(graph.layers, self.slots, strict=True):
            if not slots:
                raise SelectionError(f"layer {layer.name!r}: no candidate could be measured; see `--json` for reasons")
        self.sizes = [len(slots) for slots in self.slots]
        self.ties: dict[tuple[int, int], Table] = {}
        self.allowed: dict[tuple[int, int], Table] = {}
        self.conversions: list[_Conversion] = []
        self.shared: list[tuple[str, tuple[tuple[Format, ...], ...]]] = []

    def _place(self, cover: Cover) -> tuple[list[int], str]:
        return [self.index[part] for part in cover.parts], cover.layer.kind

    def _groups(self, options: Sequence[Candidate]) -> list[tuple[Candidate, ...]]:
        """Candidates by ports, in an order that does not depend on theirs; layers of one workload share them."""
        key = tuple(map(id, options))
        if key not in self.grouped:
            groups: dict[object, list[Candidate]] = {}
            for option in sorted(options, key=tie_break):
                groups.setdefault((option.variant.inputs, option.variant.outputs), []).append(option)
            self.grouped[key] = [tuple(groups[ports]) for ports in sorted(groups)]  # type: ignore[type-var]
        return self.grouped[key]

    def build(self) -> Structure:
        self._add_ties()
        for tensor in self.graph.tensors:
            ports = self.graph.readers[tensor]
            if len(ports) + (tensor in self.graph.outputs) > 1:
                self._add_shared(tensor, ports)
            elif ports:
                reader, port = ports[0]
                read = [slot.reads(reader, port) for slot in self.slots[self.index[reader.name]]]
                wanted = [() if target is None else (target,) for target in read]
                self._add_conversion(tensor, self.index[reader.name], wanted)
            elif tensor in self.graph.outputs:
                self._add_conversion(tensor, None, [(canonical_format(self.graph.tensors[tensor]),)])
        tensors, sets = tuple(tensor for tensor, _ in self.shared), tuple(sets for _, sets in self.shared)
        slots = tuple(tuple(slots) for slots in self.slots)
        return Structure(self.graph, slots, tensors, sets, self.ties, self.allowed, tuple(self.conversions))

    def _add_ties(self) -> None:
        """Ties each part of a cover to the parts that read from it: both are in the same of its states, or neither.

        All parts lead to the last one, so that this ties them all, along edges that the graph has anyway.
        """
        inside: dict[tuple[int, int], set[Cover]] = {}
        for i, layer in enumerate(self.graph.layers):
            covers = dict.fromkeys(slot.cover for slot in self.slots[i] if slot.cover is not None)
            readers = [reader for tensor in layer.outputs for reader, _ in self.graph.readers[tensor]]
            for cover in covers:
                for reader in readers if layer.name != cover.parts[-1] else []:
                    inside.setdefault((i, self.index[reader.name]), set()).add(cover)
        for (i, j), tied in inside.items():
            own, other = self.slots[i], self.slots[j]
            bound = np.array([slot.cover in tied for slot in own])[:, None] | [slot.cover in tied for slot in other]
            same = np.array([id(slot) for slot in own])[:, None] == [id(slot) for slot in other]
            self.ties[i, j] = np.where(bound & ~same, np.inf, 0.0)

    def _written(self, tensor: str) -> tuple[int | None, list[Format | None]]:
        """The variable that writes a tensor and the format in each of its states; canonical for model inputs."""
        producer = self.graph.producer.get(tensor)
        if producer is None:
            return None, [canonical_format(self.graph.tensors[tensor])]
        i, port = self.index[producer.name], producer.outputs.index(tensor)
        return i, [slot.writes(producer, port) for slot in self.slots[i]]

    def _add_conversion(self, tensor: str, other: int | None, wanted: Sequence[Sequence[Format]]) -> None:
        """Adds the price of what each state of another variable, or the model's output, wants of a tensor."""
        writer, written = self._written(tensor)
        formats = tuple(dict.fromkeys(f for f in (*written, *(f for each in wanted for f in each)) if f is not None))
        scope = tuple(v for v in (writer, other) if v is not None)  # who writes comes before who reads
        if not scope:
            return
        position = {f: p for p, f in enumerate(formats)}
        targets = np.zeros((len(wanted), len(formats)), np.bool_)
        for row, each in zip(targets, wanted, strict=True):
            row[[position[f] for f in each]] = True
        sources = np.array([-1 if f is None else position[f] for f in written], np.intp)
        self.conversions.append(_Conversion(tensor, scope, formats, sources, targets))

    def _add_shared(self, tensor: str, ports: list[tuple[Layer, int]]) -> None:
        read = {(r.name, p): [slot.reads(r, p) for slot in self.slots[self.index[r.name]]] for r, p in ports}
        wanted = {target for targets in read.values() for target in targets if target is not None}
        canonical = canonical_format(self.graph.tensors[tensor])
        is_output = tensor in self.graph.outputs
        wanted |= {canonical} if is_output else set()
        sizes = range(1, min(len(wanted), len(ports) + is_output, _SHARED_FORMATS) + 1)
        sets = tuple(s for size in sizes for s in combinations(sorted(wanted), size) if not is_output or canonical in s)
        sets = sets or ((),)  # it never leaves a cover
        variable = len(self.graph.layers) + len(self.shared)
        self.shared.append((tensor, sets))
        self._add_conversion(tensor, variable, sets)
        for reader, port in ports:
            targets = read[reader.name, port]
            table = np.array([[0.0 if target is None or target in s else np.inf for s in sets] for target in targets])
            edge = (self.index[reader.name], variable)
            self.allowed[edge] = self.allowed[edge] + table if edge in self.allowed else table
