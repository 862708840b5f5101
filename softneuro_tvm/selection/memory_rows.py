"""Rows of a network's programme that count the bytes of activations at each step.

They never count more than a choice needs, but may count less: for outputs that may be written in place, and for memory
that is passed on as it is. `activations.peak` counts exactly; whoever solves the programme compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from softneuro_tvm.formats import Format, canonical_format, physical_bytes
from softneuro_tvm.memory import aligned
from softneuro_tvm.selection.activations import IsView
from softneuro_tvm.selection.network_programme import NetworkProgramme, Passage, Port, Term
from softneuro_tvm.selection.programme import Columns
from softneuro_tvm.selection.resources import NeedsOf

_COMPUTE, _CONVERT, _WAIT = "compute", "convert", "wait"
"""A tensor at a step: a kernel runs there, the tensor itself is converted, or another one is."""


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

    def rows(self) -> Iterator[tuple[list[Term], float]]:
        """The terms of each row, and the most that they can sum up to."""
        passages = [p for p in self.network.passages.values() if any(self._sizes(p))]
        for j in range(len(self.graph.layers)):
            alive = [p for p in passages if p.writer < j <= p.last]
            written = [list(self._written(p)) for p in passages if p.writer == j]
            yield self._row(j, alive, None, written)
            for passage in alive:
                if self._converts(passage, j):
                    yield self._row(j, alive, passage, [])

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

    def _uncounted(self) -> set[str]:
        """Tensors that may share memory with the model's inputs or outputs, or in ways that are not followed."""
        linked: dict[str, set[str]] = {}
        found: set[str] = set()
        for layer, own in zip(self.graph.layers, self.network.states, strict=True):
            views = (state for state in own if self.needs(state.candidate).is_view)
            for unit in {id(unit): unit for unit in (v.cover.layer if v.cover else layer for v in views)}.values():
                (source, *_), (target,) = unit.inputs, unit.outputs
                linked.setdefault(source, set()).add(target)
                linked.setdefault(target, set()).add(source)
                if len(self.graph.readers[source]) > 1:
                    found.add(target)
        waiting = [tensor for tensor in (*self.graph.inputs, *self.graph.outputs) if tensor in linked]
        found |= set(waiting)
        while waiting:
            for tensor in linked.get(waiting.pop(), set()) - found:
                found.add(tensor)
                waiting.append(tensor)
        return found

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
