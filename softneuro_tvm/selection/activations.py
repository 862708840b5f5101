"""The memory that activations need at each step of a choice: what the arena of the built module is planned from.

A step is a conversion or the kernel of a layer or cover. Layers run in the graph's order, a cover where its last layer
stands; a conversion runs right before the first reader of its result. The model's inputs and outputs lie outside the
arena, in the memory of the caller or of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from softneuro_tvm.formats import Format, TensorType, canonical_format, physical_bytes
from softneuro_tvm.graph import Graph
from softneuro_tvm.memory import Buffer, aligned
from softneuro_tvm.memory.buffers import share
from softneuro_tvm.memory.nesting import outermost
from softneuro_tvm.selection.resources import NeedsOf
from softneuro_tvm.selection.states import State

IsView = Callable[[TensorType, Format, Format], bool]
"""Whether a conversion leaves the memory as it is."""


@dataclass(frozen=True)
class Peak:
    """The step that needs most.

    Args:
        size_bytes: Of the buffers that are needed then, aligned; those written in place count once.
        layers: The layers whose states decide what is needed then; ascending positions.
    """

    size_bytes: int
    layers: tuple[int, ...]


@dataclass
class _Memory:
    """Memory that one or several tensors lie in.

    Args:
        size_bytes: How much.
        first: Step that writes it.
        last: Last step that uses it.
        reuses: Memory in whose place it may be written.
        outside: True for the model's inputs and outputs.
        tensors: Names of the tensors that lie in it.
    """

    size_bytes: int
    first: int
    last: int
    reuses: tuple[int, ...] = ()
    outside: bool = False
    tensors: set[str] = field(default_factory=set)


def peak(graph: Graph, chosen: Mapping[str, State], needs: NeedsOf, is_view: IsView) -> Peak:
    """The most that a choice needs at once.

    What a routine allocates between kernels of its own is not counted.

    Args:
        graph: The network.
        chosen: The state of each layer by its name.
        needs: What candidates need.
        is_view: Tells conversions for which nothing runs.
    """
    return _Schedule(graph, chosen, needs, is_view).peak()


class _Schedule:
    def __init__(self, graph: Graph, chosen: Mapping[str, State], needs: NeedsOf, is_view: IsView) -> None:
        self.graph, self.chosen, self.needs, self.is_view = graph, chosen, needs, is_view
        self.memory: list[_Memory] = []
        self.within: dict[int, tuple[int, int]] = {}  # offsets do not matter here
        self.held: dict[tuple[str, Format], int] = {}
        self.source: dict[str, Format] = {}
        self.units: list[tuple[int, ...]] = []  # by step, the layers that it computes
        self.index = {layer.name: i for i, layer in enumerate(graph.layers)}
        for tensor in graph.inputs:
            self._write(tensor, canonical_format(graph.tensors[tensor]))
            self.memory[-1].outside = True
        for i, layer in enumerate(graph.layers):
            state = chosen[layer.name]
            if state.cover is None or state.cover.parts[-1] == layer.name:
                self._run(i, state)
        for tensor in graph.outputs:
            self.memory[self._read(tensor, canonical_format(graph.tensors[tensor]), ())].outside = True

    @property
    def step(self) -> int:
        return len(self.units) - 1

    def _write(self, tensor: str, wanted: Format) -> int:
        """New memory, written in the present step."""
        size = physical_bytes(self.graph.tensors[tensor], wanted)
        self.memory.append(_Memory(size, self.step, self.step, tensors={tensor}))
        self.source.setdefault(tensor, wanted)
        self.held[tensor, wanted] = len(self.memory) - 1
        return len(self.memory) - 1

    def _read(self, tensor: str, wanted: Format, unit: tuple[int, ...]) -> int:
        """The memory that holds a tensor in a format; converts it on first use."""
        if (tensor, wanted) not in self.held:
            source = self.source[tensor]
            held = self.held[tensor, source]
            self.units.append(unit)
            self.memory[held].last = self.step
            if self.is_view(self.graph.tensors[tensor], source, wanted):
                self.held[tensor, wanted] = held
            else:
                self._write(tensor, wanted)
        return self.held[tensor, wanted]

    def _run(self, i: int, state: State) -> None:
        layer = state.cover.layer if state.cover else self.graph.layers[i]
        unit = tuple(self.index[part] for part in state.cover.parts) if state.cover else (i,)
        variant, needs = state.candidate.variant, self.needs(state.candidate)
        read = [self._read(t, port, unit) for t, port in zip(layer.inputs, variant.inputs, strict=True)]
        self.units.append(unit)
        for held in read:
            self.memory[held].last = self.step
        if needs.is_view and len(read) == 1:
            (tensor,), (port,) = layer.outputs, variant.outputs
            self.source[tensor], self.held[tensor, port] = port, read[0]
            self.memory[read[0]].tensors.add(tensor)
            return
        for tensor, port in zip(layer.outputs, variant.outputs, strict=True):
            self._write(tensor, port)
        if needs.is_view:
            if len(set(read)) == len(read) and not any(m in self.within or self.memory[m].outside for m in read):
                self.within |= {part: (len(self.memory) - 1, 0) for part in read}
        elif len(layer.outputs) == 1:
            roots = [self._root(held) for held in read]
            others = {held for position, held in enumerate(roots) if position not in needs.in_place}
            reuses = (roots[position] for position in needs.in_place if roots[position] not in others)
            self.memory[-1].reuses = tuple(dict.fromkeys(reuses))

    def _root(self, held: int) -> int:
        """The memory that holds another one, if any does."""
        while held in self.within:
            held, _ = self.within[held]
        return held

    def peak(self) -> Peak:
        planned = [position for position, memory in enumerate(self.memory) if not memory.outside]
        number = {position: i for i, position in enumerate(planned)}
        memory = [self.memory[position] for position in planned]
        buffers = [
            Buffer(m.size_bytes, m.first, m.last, tuple(number[r] for r in m.reuses if r in number)) for m in memory
        ]
        joined_in = ((number[p], number[w]) for p, (w, _) in self.within.items() if p in number and w in number)
        roots, place = outermost(buffers, {part: (whole, 0) for part, whole in joined_in})
        joined, _ = share(roots)
        change = np.zeros(len(self.units) + 1, np.int64)
        for buffer in joined:
            change[buffer.first] += aligned(buffer.size_bytes)
            change[buffer.last + 1] -= aligned(buffer.size_bytes)
        sums = change.cumsum()
        worst = int(sums.argmax())
        if sums[worst] <= 0:
            return Peak(0, ())
        deciding = set(self.units[worst])
        for each, (root, _) in zip(memory, place, strict=True):
            if roots[root].first <= worst <= roots[root].last:
                for tensor in each.tensors:
                    writers = [self.graph.producer[tensor]] if tensor in self.graph.producer else []
                    for layer in (*writers, *(reader for reader, _ in self.graph.readers[tensor])):
                        deciding |= self._parts(layer.name)
        return Peak(int(sums[worst]), tuple(sorted(deciding)))

    def _parts(self, name: str) -> set[int]:
        """A layer and those that are computed with it."""
        cover = self.chosen[name].cover
        return {self.index[part] for part in (cover.parts if cover else (name,))}
