"""What-if: restricting the candidates of layers to some routines, or away from some.

Three ways, each with routine descriptors (`softneuro_tvm.descriptor`):

- force: the layers named are computed by one of these candidates; several forces on one layer hold together;
- forbid: these candidates are not used;
- routine: these candidates are used wherever there are any among those that force and forbid leave; other layers are
  left alone; several mean that any of them will do.

Layers that one candidate computes at once obey what is asked for each of them: a candidate that covers a layer must
itself be what is forced there, and does not hide a layer that could use the routine. A force on a composite by its name
asks for exactly that cover.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from softneuro_tvm.candidates import Candidates, adapter_workloads
from softneuro_tvm.descriptor import Descriptor, parse
from softneuro_tvm.errors import RestrictionError
from softneuro_tvm.graph import Graph, Workload
from softneuro_tvm.layer_scope import ScopeFinder
from softneuro_tvm.restriction_errors import nothing_left, nothing_matches
from softneuro_tvm.routine import Candidate


class Restrictions:
    """Says which candidates may compute a layer.

    Args:
        graph: The network.
        candidates: What could compute each layer, without restrictions.
        routine: Descriptors of what is used wherever possible.
        force: Descriptors, with layers, of what is used.
        forbid: Descriptors of what is not used.

    Attributes:
        texts: The descriptors as given, by ``routine``, ``force`` and ``forbid``.

    Raises:
        DescriptorError: a descriptor is malformed, names something that does not exist, or describes no candidate.
        RestrictionError: a layer is left that nothing may compute.
    """

    def __init__(
        self,
        graph: Graph,
        candidates: Candidates,
        *,
        routine: Iterable[str] = (),
        force: Iterable[str] = (),
        forbid: Iterable[str] = (),
    ) -> None:
        self.texts = {"routine": list(routine), "force": list(force), "forbid": list(forbid)}
        self._graph, self._candidates = graph, candidates
        self._finder = ScopeFinder(graph, candidates.covers)
        self._parts = {cover.layer.name: cover.parts for cover in candidates.covers}
        self._options: dict[str, tuple[Candidate, ...]] = {}
        for layer in (*graph.layers, *(cover.layer for cover in candidates.covers)):
            options = candidates.by_workload[graph.workload(layer)]
            self._options[layer.name] = (*self._options.get(layer.name, ()), *options)
        self._around = {layer.name: [layer.name] for layer in graph.layers}
        for name, parts in self._parts.items():
            for part in parts:
                self._around[part].append(name)
        self._asked: dict[str, dict[str, dict[Descriptor, None]]] = {word: {} for word in self.texts}
        self._replaced: set[str] = set()
        self._restricted: frozenset[str] = frozenset()
        for text in self.texts["force"]:
            self._force(parse(text))
        for text in self.texts["forbid"]:
            self._apply("forbid", parse(text))
        self._check_layers()
        for text in self.texts["routine"]:
            self._apply("routine", parse(text))
        if self.texts["routine"]:
            self._restricted = self._where_preferred()
            if not self._restricted:
                asked = " or ".join(self.texts["routine"])
                raise RestrictionError(f"force and forbid leave nothing of routine {asked}; take one of these back")

    def __bool__(self) -> bool:
        return any(self.texts.values())

    def allows(self, layer_name: str, candidate: Candidate) -> bool:
        """Whether a candidate may compute a layer.

        Args:
            layer_name: Name of a layer, or of a composite that stands for those it covers.
            candidate: One of its candidates.
        """
        preferred = layer_name not in self._restricted or self._matches("routine", layer_name, candidate)
        return preferred and self._holds(layer_name, candidate)

    def candidates(self, candidates: Candidates) -> Candidates:
        """The candidates without those that may be used nowhere, covers and adapters included.

        The workload of a layer that only a cover may compute stays, with no candidates.

        Args:
            candidates: Of the same graph; there may be others than those the restrictions were made with.
        """
        graph, before = self._graph, candidates.by_workload
        kept: dict[Workload, dict[Candidate, None]] = {graph.workloads[layer.name]: {} for layer in graph.layers}
        covers = []
        for layer in graph.layers:
            workload = graph.workloads[layer.name]
            kept[workload] |= {option: None for option in before[workload] if self.allows(layer.name, option)}
        for cover in candidates.covers:
            workload = graph.workload(cover.layer)
            if allowed := {option: None for option in before[workload] if self.allows(cover.layer.name, option)}:
                kept[workload] = kept.get(workload, {}) | allowed
                covers.append(cover)
        by_workload = {w: tuple(option for option in before[w] if option in options) for w, options in kept.items()}
        by_workload |= {w: before[w] for w in adapter_workloads(graph, by_workload, covers) if w in before}
        return replace(candidates, by_workload=by_workload, covers=tuple(covers))

    def _matches(self, word: str, name: str, candidate: Candidate) -> bool:
        """Whether any descriptor of this word that bears on a layer or composite describes the candidate."""
        return any(descriptor.matches(candidate) for descriptor in self._asked[word].get(name, ()))

    def _holds(self, name: str, candidate: Candidate) -> bool:
        """Whether force and forbid allow a candidate."""
        return (
            name not in self._replaced
            and all(descriptor.matches(candidate) for descriptor in self._asked["force"].get(name, ()))
            and not self._matches("forbid", name, candidate)
        )

    def _open(self, name: str) -> bool:
        """Whether force and forbid leave a layer or composite any candidate of its own."""
        return any(self._holds(name, option) for option in self._options[name])

    def _ask(self, word: str, descriptor: Descriptor, names: Iterable[str]) -> None:
        for name in names:
            self._asked[word].setdefault(name, {})[descriptor] = None

    def _force(self, descriptor: Descriptor) -> None:
        if not descriptor.layers:
            raise RestrictionError(
                f"force {descriptor.text!r} does not say for which layers; add @LAYERS, e.g. {descriptor.text}@conv1, "
                "or use `routine`, which holds wherever it can"
            )
        scope = self._finder.find(descriptor)
        for name in scope.exact:
            self._require(descriptor, name, [name])
            inside = set(self._parts[name])
            self._ask("force", descriptor, [name])
            self._replaced |= inside | {other for part in inside for other in self._around[part] if other != name}
        layers = scope.layers.union(*(self._parts[composite] for composite in scope.composites))
        for name in (layer.name for layer in self._graph.layers if layer.name in layers):
            self._require(descriptor, name, self._around[name])
            self._ask("force", descriptor, self._around[name])

    def _apply(self, word: str, descriptor: Descriptor) -> None:
        """Notes where a `forbid` or a `routine` bears; it must describe something there."""
        scope = self._finder.find(descriptor)
        names = scope.composites | scope.exact | {name for layer in scope.layers for name in self._around[layer]}
        where = "the layers named" if descriptor.layers else "any layer"
        self._require(descriptor, where, sorted(names))
        self._ask(word, descriptor, names)

    def _require(self, descriptor: Descriptor, where: str, names: Iterable[str]) -> None:
        """Refuses a descriptor that describes no candidate of some layers and composites."""
        options = [option for name in names for option in self._options[name]]
        if not any(descriptor.matches(option) for option in options):
            workloads = dict.fromkeys(option.workload for option in options)
            refusals = [refusal for workload in workloads for refusal in self._candidates.refusals[workload]]
            shown = f"layer {where!r}" if where in self._options else where
            raise nothing_matches(descriptor, shown, options, refusals)

    def _check_layers(self) -> None:
        """Refuses what leaves no way to compute the layers, each once."""
        bound = [layer.name for layer in self._graph.layers if not self._open(layer.name)]
        for layer in bound:
            if not any(self._open(name) for name in self._around[layer]):
                raise nothing_left([layer], self._asked_about([layer]))
        while bound:
            group = self._connected(bound[0])
            together = [layer for layer in bound if layer in group]
            if not self._coverable(frozenset(together), frozenset()):
                raise nothing_left(together, self._asked_about(together))
            bound = [layer for layer in bound if layer not in group]

    def _connected(self, layer: str) -> set[str]:
        """The layers that covers connect with a layer."""
        found, waiting = {layer}, [layer]
        while waiting:
            for name in self._around[waiting.pop()][1:]:
                new = set(self._parts[name]) - found
                found |= new
                waiting += new
        return found

    def _coverable(self, layers: frozenset[str], used: frozenset[str]) -> bool:
        """Whether covers that are left, and that overlap neither one another nor `used`, compute some layers."""
        if not layers - used:
            return True
        fitting = (
            frozenset(self._parts[name])
            for name in self._around[min(layers - used)][1:]
            if self._open(name) and used.isdisjoint(self._parts[name])
        )
        return any(self._coverable(layers, used | parts) for parts in fitting)

    def _asked_about(self, layers: Iterable[str]) -> list[str]:
        """The forces and forbids that bear on layers, as written: ``force cpu/direct@conv1``."""
        names = {name for layer in layers for name in self._around[layer]}
        bearing = {
            f"{word} {d.text}" for word, named in self._asked.items() for name in names for d in named.get(name, ())
        }
        return sorted(bearing)

    def _where_preferred(self) -> frozenset[str]:
        """Layers and composites that only candidates of `routine` may compute.

        These are the layers that can use it by themselves or in a cover that can. Of covers that overlap the first
        counts, and none counts that would take a layer from a cover that is forced, so that a plan always exists.
        """
        able = {
            name
            for name, options in self._options.items()
            if any(self._holds(name, option) and self._matches("routine", name, option) for option in options)
        }
        bound = {layer.name for layer in self._graph.layers if not self._open(layer.name)}
        taken = {
            part for name, parts in self._parts.items() if bound & set(parts) and self._open(name) for part in parts
        }
        restricted = {layer.name for layer in self._graph.layers if layer.name in able}
        for name, parts in self._parts.items():
            if name in able and not taken & set(parts):
                taken |= set(parts)
                restricted |= set(parts)
        for name, parts in self._parts.items():
            if name in able or (restricted & set(parts) and not bound & set(parts)):
                restricted.add(name)
        return frozenset(restricted)
