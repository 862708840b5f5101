"""A network with what was measured: candidates, their prices and needs, adapters, and the problem they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache

from softneuro_tvm.candidates import Candidates, adapter_workload, is_convertible
from softneuro_tvm.device import Device
from softneuro_tvm.errors import SelectionError
from softneuro_tvm.formats import Format, TensorType
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.layer_kind import Cover
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection.limited import LimitedProblem
from softneuro_tvm.selection.resources import needs_of
from softneuro_tvm.selection.states import NetworkProblem, Priced, tie_break
from softneuro_tvm.selection.structure import Structure

Profile = Mapping[Candidate, Measurement]
Allowed = Callable[[str, Candidate], bool]
"""Whether a layer, or the composite of a cover, by its name may be computed by a candidate."""


class MeasuredNetwork:
    """What is selected from.

    Args:
        graph: The network.
        candidates: What could compute each layer, adapters included.
        profile: Measurements; candidates that failed or were not measured are left out.
        device: What was measured on.
        allowed: Leaves out more candidates, layer by layer.

    Attributes:
        priced: Usable candidates of each layer with their medians, by layer name.
        covers: The same of covers.
        structure: The states that they make.

    Raises:
        SelectionError: a layer for which nothing worked or nothing is allowed.
    """

    def __init__(
        self, graph: Graph, candidates: Candidates, profile: Profile, device: Device, allowed: Allowed | None = None
    ) -> None:
        self.graph, self.candidates, self.profile, self.device = graph, candidates, profile, device
        self._allowed = allowed
        self._seconds: dict[int, float] = {}
        self.adapter = lru_cache(maxsize=None)(self._adapter)
        self.priced = {layer.name: self._usable(layer) for layer in graph.layers}
        measured = ((cover, self._usable(cover.layer)) for cover in candidates.covers)
        self.covers: dict[Cover, list[Priced]] = {cover: options for cover, options in measured if options}
        covered = {part for cover in self.covers for part in cover.parts}
        for layer in graph.layers:
            if not self.priced[layer.name] and layer.name not in covered:
                raise SelectionError(self._nothing_left(layer))
        self.structure = Structure.of(
            graph,
            {name: [option for option, _ in options] for name, options in self.priced.items()},
            [(cover, [option for option, _ in options]) for cover, options in self.covers.items()],
        )

    @cached_property
    def problem(self) -> NetworkProblem:
        """The pairwise problem at the measured prices."""
        return self.structure.problem(self.price, self.adapter_cost)

    @cached_property
    def limited(self) -> LimitedProblem:
        """The problem under limits."""
        needs = needs_of(self.profile, self.device)
        return LimitedProblem(self.structure, self.price, self.adapter_cost, needs, self._is_view)

    def price(self, candidate: Candidate) -> float:
        """The measured median of a usable candidate."""
        return self._seconds[id(candidate)]

    def adapter_cost(self, tensor: TensorType, source: Format, target: Format) -> float:
        """Seconds of a conversion; inf where none was measured."""
        found = self.adapter(tensor, source, target)
        return math.inf if found is None else found[1]

    def rejected(self, layer: Layer) -> list[tuple[str, str]]:
        """Candidates of a layer that failed, with the reason."""
        failed = [(option, self.profile[option]) for option in self._options(layer) if option in self.profile]
        return [(f"{o.routine.name}/{o.variant.params_text}", m.message) for o, m in failed if m.status != "ok"]

    def _options(self, layer: Layer) -> tuple[Candidate, ...]:
        return self.candidates.by_workload[self.graph.workloads.get(layer.name) or self.graph.workload(layer)]

    def _usable(self, layer: Layer) -> list[Priced]:
        found = self._measured(self._options(layer))
        return [item for item in found if self._allowed is None or self._allowed(layer.name, item[0])]

    def _measured(self, options: Sequence[Candidate]) -> list[Priced]:
        found = []
        for option in options:
            if id(option) not in self._seconds:
                measured = self.profile.get(option)
                ok = measured is not None and measured.status == "ok"
                self._seconds[id(option)] = measured.median_s if measured is not None and ok else math.inf
            if math.isfinite(self._seconds[id(option)]):
                found.append((option, self._seconds[id(option)]))
        return found

    def _adapter(self, tensor: TensorType, source: Format, target: Format) -> Priced | None:
        if not is_convertible(source, target):
            return None
        options = self._measured(self.candidates.by_workload.get(adapter_workload(tensor, source, target), ()))
        return min(options, key=lambda option: (option[1], tie_break(option[0])), default=None)

    def _is_view(self, tensor: TensorType, source: Format, target: Format) -> bool:
        return self.adapter_cost(tensor, source, target) == 0.0

    def _nothing_left(self, layer: Layer) -> str:
        text = f"layer {layer.name!r} ({self.graph.workloads[layer.name]}): "
        if self._measured(self._options(layer)):
            return text + "no candidate that works is allowed; loosen the restrictions"
        reasons = "; ".join(f"{name}: {why}" for name, why in self.rejected(layer)[:3])
        return text + f"every candidate failed ({reasons}); `softneuro-tvm tune --json` lists all"
