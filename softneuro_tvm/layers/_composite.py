"""Composite kinds: a chain of layers of other kinds as one layer. Everything follows from the parts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Graph, Layer, Workload
from softneuro_tvm.layer_kind import LayerKind

Value = TypeVar("Value")


@dataclass(frozen=True)
class Part:
    """One layer of a chain.

    Args:
        name: Prefix of its weights: the weight ``bias`` of the part ``expand`` is ``expand.bias``.
        kind: What it computes.
        attributes: Of that kind.
        chained: Which of its inputs is the part before; the first part has none such. The other inputs of all parts,
            in order, are the composite's.
    """

    name: str
    kind: LayerKind
    attributes: Any
    chained: int = 0


class Chain(LayerKind):
    """A kind whose layers are chains of layers of other kinds."""

    @abstractmethod
    def parts(self, attributes: Any) -> tuple[Part, ...]:
        """The chain."""

    @abstractmethod
    def arity(self, part: Part) -> int:
        """Number of inputs of a part, the chained one included."""

    def _feed(self, attributes: Any, inputs: Sequence[Value], compute: Callable[[Part, list[Value]], Value]) -> Value:
        """Carries values along the chain; ``compute(part, values)`` gives the output of a part."""
        waiting, passed = list(inputs), list[Value]()
        for part in self.parts(attributes):
            own = [waiting.pop(0) for _ in range(self.arity(part) - len(passed))]
            own[part.chained : part.chained] = passed
            passed = [compute(part, own)]
        return passed[0]

    @staticmethod
    def _own(part: Part, weights: Mapping[str, Value]) -> dict[str, Value]:
        """The weights of a part, by their names in its own kind."""
        prefix = f"{part.name}."
        return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}

    def part_workloads(self, workload: Workload) -> dict[str, Workload]:
        """The workloads of the parts, by their names, in order."""
        found: dict[str, Workload] = {}

        def output(part: Part, inputs: list[TensorType]) -> TensorType:
            found[part.name] = part.kind.workload(part.attributes, inputs, self._own(part, workload.weight_types))
            return found[part.name].outputs[0]

        self._feed(workload.attributes, workload.inputs, output)
        return found

    def output_types(
        self, attributes: Any, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """What the last part writes."""

        def output(part: Part, own: list[TensorType]) -> TensorType:
            return part.kind.output_types(part.attributes, own, self._own(part, weights))[0]

        return (self._feed(attributes, inputs, output),)

    def reference(
        self, attributes: Any, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """The parts' references one after the other."""

        def output(part: Part, own: list[np.ndarray]) -> np.ndarray:
            return part.kind.reference(part.attributes, own, self._own(part, weights))[0]

        return (self._feed(attributes, inputs, output),)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """The parts' definitions one after the other."""
        workloads = self.part_workloads(workload)

        def output(part: Part, own: list[Any]) -> Any:
            return part.kind.compute(workloads[part.name], own, self._own(part, weights))[0]

        return [self._feed(workload.attributes, inputs, output)]

    def flops(self, workload: Workload) -> int:
        """Those of the parts."""
        workloads = self.part_workloads(workload)
        return sum(part.kind.flops(workloads[part.name]) for part in self.parts(workload.attributes))


def only_reader(graph: Graph, layer: Layer) -> tuple[Layer, int] | None:
    """The one layer that reads what a layer writes, and at which input; None if there are more, or none."""
    if len(layer.outputs) != 1 or layer.outputs[0] in graph.outputs:
        return None
    readers = graph.readers[layer.outputs[0]]
    return readers[0] if len(readers) == 1 else None
