"""Rows of a network's programme that count the bytes of activations at each step.

They never count more than a choice needs, but may count less: for outputs that may be written in place, and for memory
that is passed on as it is. `activations.peak` counts exactly; whoever solves the programme compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from softneuro_tvm.formats import Format, canonical_format, physical_bytes
from softneuro_tvm.graph import Layer
from softneuro_tvm.memory import aligned
from softneuro_tvm.selection.activations import IsView
from softneuro_tvm.selection.network_programme import NetworkProgramme, Passage, Port, Term
from softneuro_tvm.selection.programme import Columns
from softneuro_tvm.selection.resources import NeedsOf

_COMPUTE, _CONVERT, _WAIT = "compute", "convert", "wait"
"""A tensor at a step: a kernel runs there, the tensor itself is converted, or another one is."""


@dataclass(frozen=True, eq=False)
class _Part:
    """An input of a layer that finds its inputs side by side.

    Args:
        writer: Position of the layer that writes it.
        size: Bytes that are kept for it; 0 where something else may lie in its place.
        ready: Columns that say that it is there, as it is read, from the step of a layer on.
        waiting: Columns that say that it is converted into its place at some time.
    """

    writer: int
    size: int
    ready: tuple[tuple[int, Columns], ...]
    waiting: tuple[Columns, ...]


@dataclass(frozen=True, eq=False)
class _Join:
    """A way to find the inputs of a layer side by side: from the first one on, all have their memory.

    Args:
        position: Of the layer.
        states: Columns of the states.
        parts: Its inputs.
    """

    position: int
    states: Columns
    parts: tuple[_Part, ...]


class MemoryRows:
    """Finds the terms of the rows.

    Args:
        network: Gets columns for the versions of tensors with several readers.
        needs: What candidates need.
        is_view: Tells conversions for which nothing runs.
    """

    def __init__(self, network: NetworkProgramme, needs: NeedsOf, is_view: IsView) -> None:
        self.network, self.graph, self.needs = network, network.graph, needs
        self.programme = network.programme
        self.version: dict[tuple[str, Format], Format] = {}
        self.size: dict[tuple[str, Format], int] = {}
        uncounted = self._uncounted()
        for passage in network.passages.values():
            self._join(passage, is_view, passage.tensor in uncounted)
        self.known: dict[tuple[str, int, int, str], list[Term]] = {}
        self.joins = list(self._joins())
        self.columns: dict[tuple[int, ...], Columns] = {}

    def rows(self) -> Iterator[tuple[list[Term], float]]:
        """The terms of each row, and the most that they can sum up to."""
        passages = [p for p in self.network.passages.values() if any(self._sizes(p))]
        for j in range(len(self.graph.layers)):
            alive = [p for p in passages if p.writer < j <= p.last]
            written = [list(self._written(p)) for p in passages if p.writer == j]
            yield self._row(j, alive, None, [*written, *self._kept(j, j)])
            for passage in alive:
                if self._converts(passage, j):
                    yield self._row(j, alive, passage, list(self._kept(j, j - 1)))

    def _row(
        self, j: int, alive: Sequence[Passage], converted: Passage | None, written: Sequence[list[Term]]
    ) -> tuple[list[Term], float]:
        found = [term for terms in written for term in terms]
        most = sum(max((value for _, value in terms), default=0.0) for terms in written)
        for passage in alive:
            role = _COMPUTE if converted is None else _CONVERT if passage is converted else _WAIT
            terms = self._terms(passage, j, role)
            found += terms
            # one flow of a reader is taken, but several versions may be needed
            values = [value for _, value in terms]
            most += max(values, default=0.0) if len(passage.ports) == 1 else sum(values)
        return found, most

    def _joins(self) -> Iterator[_Join]:
        for i, (layer, own) in enumerate(zip(self.graph.layers, self.network.states, strict=True)):
            states = [s for s in own if s.cover is None and len(layer.inputs) > 1 and self.needs(s.candidate).is_view]
            for wanted in dict.fromkeys(state.candidate.variant.inputs for state in states):
                parts = [self._part(layer, port, as_read, i) for port, as_read in enumerate(wanted)]
                alike = [state for state in states if state.candidate.variant.inputs == wanted]
                yield _Join(i, self.network.columns_of(alike), tuple(parts))

    def _part(self, layer: Layer, port: int, wanted: Format, position: int) -> _Part:
        tensor = layer.inputs[port]
        passage, place = self.network.passages[tensor], self.graph.readers[tensor].index((layer, port))
        others = [other.read.items() for k, other in enumerate(passage.ports) if k != place]
        ready = [(at, columns) for read in others for (target, at), columns in read if target == wanted]
        waiting = []
        for (source, read), columns in passage.ports[place].flows.items():
            if read == (wanted, position):
                if source == wanted:
                    ready.append((passage.writer, columns))
                elif self.version[tensor, source] != self.version[tensor, wanted]:
                    waiting.append(columns)
        writers = self.network.states[passage.writer] if passage.writer >= 0 else ()
        is_nested = any(self.needs(state.candidate).is_view for state in writers)
        size = 0 if is_nested else aligned(physical_bytes(self.graph.tensors[tensor], wanted))
        return _Part(passage.writer, size, tuple(ready), tuple(waiting))

    def _kept(self, j: int, done: int) -> Iterator[list[Term]]:
        """The bytes that are kept at a step for inputs of joins, beside one that is there already.

        Args:
            j: The step.
            done: The last layer that has written its outputs by then, or does.
        """
        for number, join in enumerate(self.joins):
            there = [columns for part in join.parts for at, columns in part.ready if at <= done]
            if not there or j >= join.position:
                continue
            begun = self._column((number, len(there)), [[(join.states, 1.0), (columns, 1.0)] for columns in there])
            if later := sum(part.size for part in join.parts if part.writer > j):
                yield [(begun, float(later))]
            for k, part in enumerate(join.parts):
                if part.writer <= done and part.size:
                    earlier = [(columns, -1.0) for at, columns in part.ready if at <= j]
                    ways = [[(begun, 1.0), (columns, 1.0), *earlier] for columns in part.waiting]
                    if ways:
                        key = (number, len(there), k, len(earlier))
                        yield [(self._column(key, ways), float(part.size))]

    def _column(self, key: tuple[int, ...], ways: Sequence[list[Term]]) -> Columns:
        """A column that is at least each of some sums, less 1."""
        if key not in self.columns:
            self.columns[key] = column = self.programme.add_columns(np.zeros(1))
            for terms in ways:
                self.programme.add_row([(column, 1.0), *((columns, -value) for columns, value in terms)], -1.0)
        return self.columns[key]

    def _uncounted(self) -> set[str]:
        """Tensors that may share memory with the model's inputs or outputs, or in ways that are not followed."""
        linked: dict[str, set[str]] = {}
        found: set[str] = set()
        for i, (layer, own) in enumerate(zip(self.graph.layers, self.network.states, strict=True)):
            views = (state for state in own if self.needs(state.candidate).is_view)
            for unit in {id(unit): unit for unit in (v.cover.layer if v.cover else layer for v in views)}.values():
                if len(unit.inputs) > 1:
                    # afterwards the whole counts, so that a part that is read again must not count besides
                    found |= {part for part in unit.inputs if self.network.passages[part].last > i}
                    continue
                (source,), (target,) = unit.inputs, unit.outputs
                linked.setdefault(source, set()).add(target)
                linked.setdefault(target, set()).add(source)
                if len(self.graph.readers[source]) > 1:
                    found.add(target)
        waiting = [tensor for tensor in (*self.graph.inputs, *self.graph.outputs) if tensor in linked]
        outside = set(waiting)
        while waiting:
            for tensor in linked[waiting.pop()] - outside:
                outside.add(tensor)
                waiting.append(tensor)
        return found | outside

    def _join(self, passage: Passage, is_view: IsView, uncounted: bool) -> None:
        """Formats between which a conversion changes nothing are versions of one memory, as small as the smallest."""
        tensor, tensor_type = passage.tensor, self.graph.tensors[passage.tensor]
        read = {target for port in passage.ports for target, _ in port.read}
        version = {each: each for each in sorted({*passage.written, *read})}
        for source in passage.written:
            for target in read:
                if source != target and is_view(tensor_type, source, target):
                    kept, gone = sorted((version[source], version[target]))
                    version = {each: kept if now == gone else now for each, now in version.items()}
        outside = canonical_format(tensor_type) if tensor in (*self.graph.inputs, *self.graph.outputs) else None
        sizes: dict[Format, int] = {}
        for each, kept in version.items():
            size = 0 if uncounted or each == outside else aligned(physical_bytes(tensor_type, each))
            sizes[kept] = min(size, sizes.get(kept, size))
        for each, kept in version.items():
            self.version[tensor, each], self.size[tensor, each] = kept, sizes[kept]

    def _sizes(self, passage: Passage) -> list[int]:
        read = {target for port in passage.ports for target, _ in port.read}
        return [self.size[passage.tensor, each] for each in {*passage.written, *read}]

    def _counts_output(self, j: int) -> Columns:
        """States of a layer whose outputs need memory of their own for certain."""
        own = self.network.states[j]
        plain = [s for s in own if not (self.needs(s.candidate).is_view or self.needs(s.candidate).in_place)]
        return self.network.columns_of(plain)

    def _written(self, passage: Passage) -> Iterator[Term]:
        certain = self._counts_output(passage.writer)
        for source, columns in passage.written.items():
            if size := self.size[passage.tensor, source]:
                yield np.intersect1d(columns, certain), float(size)

    def _converts(self, passage: Passage, j: int) -> bool:
        """Whether the tensor may be converted into memory of its own for a reader at a position."""
        return any(
            position == j and self.version[passage.tensor, source] != self.version[passage.tensor, target]
            for port in passage.ports
            for source, (target, position) in port.flows
        )

    def _terms(self, passage: Passage, j: int, role: str) -> list[Term]:
        """The bytes that a tensor needs at a step, at least."""
        positions = {position for port in passage.ports for _, position in port.read}
        key = (passage.tensor, sum(position < j for position in positions), int(j in positions), role)
        if key not in self.known:
            single = len(passage.ports) == 1
            self.known[key] = self._single(passage, j, role) if single else self._versions(passage, j, role)
        return self.known[key]

    def _single(self, passage: Passage, j: int, role: str) -> list[Term]:
        found: list[Term] = []
        for (source, (target, position)), columns in passage.ports[0].flows.items():
            kept, made = self.size[passage.tensor, source], self.size[passage.tensor, target]
            same = self.version[passage.tensor, source] == self.version[passage.tensor, target]
            if position < j:
                continue
            needed = kept
            if position == j:
                needed = {_COMPUTE: made, _CONVERT: kept if same else kept + made, _WAIT: min(kept, made)}[role]
            if needed:
                found.append((columns, float(needed)))
        return found

    def _versions(self, passage: Passage, j: int, role: str) -> list[Term]:
        """A column for each version of a tensor with several readers, at least 1 where the version is needed."""
        tensor, version = passage.tensor, {f: v for (t, f), v in self.version.items() if t == passage.tensor}
        kept = [v for v in dict.fromkeys(version.values()) if self.size[tensor, v]]
        column = dict(zip(kept, self.programme.add_columns(np.zeros(len(kept))), strict=True))

        def need(wanted: Format, terms: Sequence[Term], more: float = 0.0) -> None:
            """The column of a version is at least a sum, plus a number."""
            if wanted in column and terms:
                row = [(np.array([column[wanted]]), 1.0), *((columns, -value) for columns, value in terms)]
                self.programme.add_row(row, more)

        def read(port: Port, wanted: Format, when: range) -> list[Term]:
            return [(c, 1.0) for (f, position), c in port.read.items() if version[f] == wanted and position in when]

        end = len(self.graph.layers) + 1
        before, now, later = range(-1, j), range(j, j + 1), range(j + 1, end)
        for k, port in enumerate(passage.ports):
            others = [other for i, other in enumerate(passage.ports) if i != k]
            for wanted in dict.fromkeys(version.values()):
                if role != _WAIT:
                    need(wanted, read(port, wanted, now))
                soon = read(port, wanted, later)
                for other in others if soon else []:
                    earlier = read(other, wanted, before if role == _WAIT else range(-1, j + 1))
                    if earlier:
                        need(wanted, [*soon, *earlier], -1.0)
            for (source, (target, position)), columns in port.flows.items():
                kept_version, made = version[source], version[target]
                if position > j and kept_version == made:
                    need(made, [(columns, 1.0)])
                elif kept_version != made and (position > j or (position == j and role == _CONVERT)):
                    done = [(c, -1.0) for other in others for c, _ in read(other, made, range(-1, j + 1))]
                    need(kept_version, [(columns, 1.0), *done])
            if len(kept) == len(set(version.values())):
                through = [(c, -1.0) for (_, position), c in port.read.items() if position in later]
                if through:
                    self.programme.add_row([(np.array(list(column.values())), 1.0), *through], 0.0)
        return [(np.array([c]), float(self.size[tensor, v])) for v, c in column.items()]
