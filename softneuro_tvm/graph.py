"""The network as this package sees it: a directed acyclic graph of layers. Needs numpy only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from softneuro_tvm.formats import TensorType


@dataclass(frozen=True)
class Workload:
    """What a layer computes, without its name or the values of its weights: equal workloads share measurements.

    Args:
        kind: Name of the layer kind, e.g. ``conv2d``.
        attributes: Frozen dataclass that the layer kind defines.
        inputs: Types of the activations read.
        outputs: Types of the tensors written.
        weights: Names and types of the constants, sorted by name.
    """

    kind: str
    attributes: Any
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    weights: tuple[tuple[str, TensorType], ...] = ()

    @cached_property
    def weight_types(self) -> dict[str, TensorType]:
        """The constants by name."""
        return dict(self.weights)

    def computing_in(self, element: str) -> Workload:
        """The workload with tensors of another element type in place of float32."""

        def converted(tensor: TensorType) -> TensorType:
            return replace(tensor, dtype=element) if tensor.dtype == "float32" else tensor

        return replace(
            self,
            inputs=tuple(map(converted, self.inputs)),
            outputs=tuple(map(converted, self.outputs)),
            weights=tuple((name, converted(tensor)) for name, tensor in self.weights),
        )

    @cached_property
    def json(self) -> str:
        """Canonical text of the workload: the part of a measurement's key that names the problem."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that stand for the workload."""
        return hashlib.sha256(self.json.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        shown = " ".join(str(t) for t in (*self.inputs, *(t for _, t in self.weights)))
        return f"{self.kind} {shown} -> {' '.join(map(str, self.outputs))}"


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer: what is computed, between which tensors, with which weights.

    Args:
        name: Unique in its graph; taken from the model's node where there is one.
        kind: Name of the layer kind.
        attributes: Frozen dataclass that the layer kind defines.
        inputs: Names of the tensors read.
        outputs: Names of the tensors written.
        weights: Constants in their canonical layouts, by the names that the layer kind gives them.
    """

    name: str
    kind: str
    attributes: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Graph:
    """Layers in topological order, and the types of all tensors.

    Args:
        layers: In an order in which every tensor is written before it is read.
        tensors: Types by tensor name, model inputs included.
        inputs: Names of the model's inputs, in the model's order.
        outputs: Names of the tensors the model returns, in the model's order; may repeat, may be inputs.
        name: Of the model; for people.
        output_names: What the model calls its outputs; defaults to the tensors' own names.
    """

    layers: tuple[Layer, ...]
    tensors: Mapping[str, TensorType]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str = "model"
    output_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = set(self.inputs)
        for layer in self.layers:
            missing = [tensor for tensor in layer.inputs if tensor not in known]
            if missing:
                raise ValueError(f"layer {layer.name!r} reads {missing} before they are written")
            if known & set(layer.outputs):
                raise ValueError(f"layer {layer.name!r} writes {layer.outputs}, which exist already")
            known |= set(layer.outputs)
        if not known >= set(self.outputs) or not set(self.tensors) >= known:
            raise ValueError("an output is never written, or a tensor has no type")
        if len({layer.name for layer in self.layers}) != len(self.layers):
            raise ValueError("layer names repeat")
        if not self.output_names:
            object.__setattr__(self, "output_names", self.outputs)

    @cached_property
    def producer(self) -> dict[str, Layer]:
        """The layer that writes each tensor (model inputs have none)."""
        return {tensor: layer for layer in self.layers for tensor in layer.outputs}

    @cached_property
    def readers(self) -> dict[str, list[tuple[Layer, int]]]:
        """The layers that read each tensor, with the input position, in topological order."""
        found: dict[str, list[tuple[Layer, int]]] = {tensor: [] for tensor in self.tensors}
        for layer in self.layers:
            for position, tensor in enumerate(layer.inputs):
                found[tensor].append((layer, position))
        return found

    def workload(self, layer: Layer) -> Workload:
        """The layer's workload."""
        return Workload(
            layer.kind,
            layer.attributes,
            tuple(self.tensors[tensor] for tensor in layer.inputs),
            tuple(self.tensors[tensor] for tensor in layer.outputs),
            tuple(sorted((k, TensorType(tuple(w.shape), str(w.dtype))) for k, w in layer.weights.items())),
        )

    @cached_property
    def workloads(self) -> dict[str, Workload]:
        """Workload of each layer by layer name."""
        return {layer.name: self.workload(layer) for layer in self.layers}

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of all constants."""
        return sum(w.nbytes for layer in self.layers for w in layer.weights.values())

    @cached_property
    def digest(self) -> str:
        """Stands for structure and weights: equal digests give equal modules."""
        state = hashlib.sha256()
        for layer in self.layers:
            state.update(repr((layer.name, self.workloads[layer.name].json, layer.inputs, layer.outputs)).encode())
            for key in sorted(layer.weights):
                state.update(key.encode())
                state.update(np.ascontiguousarray(layer.weights[key]).reshape(-1).view(np.uint8).data)
        state.update(repr((self.inputs, self.outputs)).encode())
        return state.hexdigest()[:16]


def topological_order(layers: Iterable[Layer], inputs: Iterable[str]) -> tuple[Layer, ...]:
    """Sorts layers so that every tensor is written before it is read; keeps the given order where it can.

    Raises:
        ValueError: there is a cycle, or a tensor that nothing writes.
    """
    waiting, known, ordered = list(layers), set(inputs), list[Layer]()
    while waiting:
        ready = next((layer for layer in waiting if known >= set(layer.inputs)), None)
        if ready is None:
            raise ValueError(f"layers in a cycle or without inputs: {[layer.name for layer in waiting[:5]]}")
        waiting.remove(ready)
        ordered.append(ready)
        known |= set(ready.outputs)
    return tuple(ordered)
