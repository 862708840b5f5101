"""A network under limits as a mixed-integer linear programme.

A binary says whether a state is chosen; the layers of a cover share theirs. For each reader of a tensor, flows connect
the formats in which the tensor may be written with those in which it may be read (the local polytope); a conversion
that several readers share is paid once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from softneuro_tvm.formats import Format, canonical_format
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.selection.programme import Columns, Programme, Result
from softneuro_tvm.selection.states import AdapterCost, State

Term = tuple[Columns, float]
"""A sum of columns, times a number."""
Read = tuple[Format, int]
"""Format in which a tensor is read, and the position of the layer or cover that reads it in the graph's order."""


@dataclass(frozen=True)
class Port:
    """One reader of a tensor.

    Args:
        read: Columns of the states that read it in each way.
        flows: Columns whose sum is 1 if the tensor is written in one format and read in one way.
    """

    read: Mapping[Read, Columns]
    flows: Mapping[tuple[Format, Read], Columns]


@dataclass(frozen=True)
class Passage:
    """How a tensor gets from its writer to its readers.

    Args:
        tensor: Name.
        writer: Position of the layer that writes it; -1 for the model's inputs.
        written: Columns of the states that write it in each format.
        ports: Its readers; the last one is the model's output, if it is one.
    """

    tensor: str
    writer: int
    written: Mapping[Format, Columns]
    ports: tuple[Port, ...]

    @property
    def last(self) -> int:
        """Where it may be read for the last time; -1 if nobody reads it."""
        return max((position for port in self.ports for _, position in port.read), default=-1)


@dataclass(eq=False)
class NetworkProgramme:
    """The programme of a network.

    Args:
        graph: The network.
        states: For each layer its states; the layers of a cover share them.
        adapter_cost: Price of converting a tensor; inf where it is not possible.

    Attributes:
        programme: Rows that connect states and flows; costs and limits are added by the caller.
        columns: Of each state, by its `id`.
        times: What everything costs, in seconds.
        passages: Of each tensor.
    """

    graph: Graph
    states: Sequence[Sequence[State]]
    adapter_cost: AdapterCost
    programme: Programme = field(default_factory=Programme)
    columns: dict[int, int] = field(default_factory=dict)
    times: list[Term] = field(default_factory=list)
    passages: dict[str, Passage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._index = {layer.name: i for i, layer in enumerate(self.graph.layers)}
        for state in (state for own in self.states for state in own):
            if id(state) not in self.columns:
                (column,) = self.programme.add_columns(np.zeros(1), integral=True)
                self.columns[id(state)] = int(column)
                self.times.append((np.array([column]), state.cost))
        for own in self.states:
            self.programme.add_row([(self.columns_of(own), 1.0)], 1.0, 1.0)
        self._one = self.programme.add_columns(np.zeros(1))
        self.programme.add_row([(self._one, 1.0)], 1.0, 1.0)
        for tensor in self.graph.tensors:
            self.passages[tensor] = self._passage(tensor)
            self._add_conversions(self.passages[tensor])

    def columns_of(self, states: Sequence[State]) -> Columns:
        """The columns of some states."""
        return np.array([self.columns[id(state)] for state in states], np.intp)

    def chosen(self, result: Result) -> dict[str, State]:
        """The state of each layer in a solution."""
        assert result.values is not None
        return {
            layer.name: own[int(result.values[self.columns_of(own)].argmax())]
            for layer, own in zip(self.graph.layers, self.states, strict=True)
        }

    def _passage(self, tensor: str) -> Passage:
        canonical = canonical_format(self.graph.tensors[tensor])
        producer = self.graph.producer.get(tensor)
        if producer is None:
            writer, written = -1, {canonical: self._one}
        else:
            writer, port = self._index[producer.name], producer.outputs.index(tensor)
            grouped: dict[Format, list[State]] = {}
            for state in self.states[writer]:
                if (found := state.writes(producer, port)) is not None:
                    grouped.setdefault(found, []).append(state)
            written = {found: self.columns_of(states) for found, states in grouped.items()}
        reads = [self._read(reader, port) for reader, port in self.graph.readers[tensor]]
        if tensor in self.graph.outputs:
            reads.append({(canonical, len(self.graph.layers)): self._one})
        ports = tuple(Port(read, self._flows(tensor, written, read)) for read in reads)
        return Passage(tensor, writer, written, ports)

    def _read(self, reader: Layer, port: int) -> dict[Read, Columns]:
        grouped: dict[Read, list[State]] = {}
        for state in self.states[self._index[reader.name]]:
            if (wanted := state.reads(reader, port)) is not None:
                position = self._index[state.cover.parts[-1] if state.cover else reader.name]
                grouped.setdefault((wanted, position), []).append(state)
        return {read: self.columns_of(states) for read, states in grouped.items()}

    def _flows(
        self, tensor: str, written: Mapping[Format, Columns], read: Mapping[Read, Columns]
    ) -> dict[tuple[Format, Read], Columns]:
        """A flow for each pair; one of the sides serves where the other has no choice."""
        pairs = [(source, target) for source in written for target in read]
        if len(written) == 1 or len(read) == 1:
            flows = {pair: read[pair[1]] if len(written) == 1 else written[pair[0]] for pair in pairs}
            for pair in pairs:
                if np.isinf(self._price(tensor, pair[0], pair[1][0])):
                    self.programme.add_row([(flows[pair], 1.0)], 0.0, 0.0)
            return flows
        allowed = [pair for pair in pairs if np.isfinite(self._price(tensor, pair[0], pair[1][0]))]
        columns = self.programme.add_columns(np.zeros(len(allowed)))
        for source, states in written.items():
            through = columns[[pair[0] == source for pair in allowed]]
            self.programme.add_row([(through, 1.0), (states, -1.0)], 0.0, 0.0)
        for target, states in read.items():
            through = columns[[pair[1] == target for pair in allowed]]
            self.programme.add_row([(through, 1.0), (states, -1.0)], 0.0, 0.0)
        return {pair: columns[i : i + 1] for i, pair in enumerate(allowed)}

    def _price(self, tensor: str, source: Format, target: Format) -> float:
        return 0.0 if source == target else self.adapter_cost(self.graph.tensors[tensor], source, target)

    def _add_conversions(self, passage: Passage) -> None:
        """Conversions cost once, however many readers share them."""
        users: dict[tuple[Format, Format], list[list[Columns]]] = {}
        for port in passage.ports:
            own: dict[tuple[Format, Format], list[Columns]] = {}
            for (source, (target, _)), columns in port.flows.items():
                own.setdefault((source, target), []).append(columns)
            for pair, flows in own.items():
                users.setdefault(pair, []).append(flows)
        for (source, target), found in users.items():
            price = self._price(passage.tensor, source, target)
            if price == 0.0 or np.isinf(price):
                continue
            if len(found) == 1:
                self.times += [(columns, price) for columns in found[0]]
                continue
            made = self.programme.add_columns(np.zeros(1))
            self.times.append((made, price))
            for flows in found:
                self.programme.add_row([(made, 1.0), *((columns, -1.0) for columns in flows)], 0.0)
