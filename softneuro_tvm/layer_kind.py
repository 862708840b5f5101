"""What a layer kind must define. One file of `softneuro_tvm.layers` defines one kind; scanning finds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Graph, Layer, Workload


@dataclass(frozen=True, eq=False)
class Operand:
    """One argument of an operator call that is being recognised.

    Args:
        type: Shape and element type.
        value: The array, if the argument is a constant.
    """

    type: TensorType
    value: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Recognised:
    """An operator call seen as a layer.

    Args:
        attributes: Instance of the kind's `Attributes`.
        activations: Positions of the call's arguments that become the layer's inputs, in order.
        weights: Constants by name.
    """

    attributes: Any
    activations: tuple[int, ...]
    weights: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Cover:
    """Layers of a graph that one layer of a composite kind can compute at once.

    What they pass to one another is read by nobody else, and the last one writes all that is read outside, so that the
    composite can run where the last layer stands.

    Args:
        parts: Names of the covered layers, in the graph's order.
        layer: The composite. It reads what its parts read from outside, each port of each part by itself, in the parts'
            order; it writes what the last part writes.
        ports: Which of the composite's inputs a part's port is, by (name of the part, position). Ports that read from
            another part are not in it.
    """

    parts: tuple[str, ...]
    layer: Layer
    ports: Mapping[tuple[str, int], int]

    @staticmethod
    def of(graph: Graph, kind: str, attributes: Any, parts: Mapping[str, Layer]) -> Cover | None:
        """The cover of some layers; None if what they pass to one another is needed elsewhere, too, or not at all.

        Args:
            graph: The network.
            kind: Name of the composite kind.
            attributes: Instance of its `Attributes`.
            parts: The layers in the graph's order, by the names that prefix their weights: ``expand.bias``.
        """
        layers = tuple(parts.values())
        names = tuple(layer.name for layer in layers)
        passed = {tensor for layer in layers[:-1] for tensor in layer.outputs}
        for tensor in passed:
            readers = {reader.name for reader, _ in graph.readers[tensor]}
            if not readers or not readers <= set(names) or tensor in graph.outputs:
                return None
        read = [
            (layer.name, port, tensor)
            for layer in layers
            for port, tensor in enumerate(layer.inputs)
            if tensor not in passed
        ]
        ports = {(name, port): position for position, (name, port, _) in enumerate(read)}
        weights = {f"{prefix}.{key}": array for prefix, layer in parts.items() for key, array in layer.weights.items()}
        inputs = tuple(tensor for _, _, tensor in read)
        return Cover(names, Layer("+".join(names), kind, attributes, inputs, layers[-1].outputs, weights), ports)


class LayerKind(ABC):
    """The meaning of one kind of layer: attributes, recognition, types, reference, TE definition, examples."""

    name: ClassVar[str]
    Attributes: ClassVar[type]
    relax_operators: ClassVar[tuple[str, ...]] = ()
    """Relax operators that may become this kind, e.g. ``relax.nn.conv2d``."""
    has_reference: ClassVar[bool] = True
    """False if `reference` cannot compute this kind, so that its candidates are only compared with one another."""

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """The layer that a Relax call computes, or None if this kind cannot express it.

        Args:
            operator: Name, one of `relax_operators`.
            attrs: The call's attributes (TVM object; read with getattr).
            operands: The call's arguments, in order. A tuple of tensors is flattened; a number (``relax.clip``) is a
                constant of rank 0; a shape or a tuple of numbers (``relax.reshape``, ``relax.strided_slice``) is one
                constant int64 vector.
        """
        return None

    def covers(self, graph: Graph) -> Iterable[Cover]:
        """Layers of a graph that a layer of this kind can replace: a composite kind finds them, others have none.

        Covers may overlap; the selection takes those that pay.
        """
        return ()

    @abstractmethod
    def output_types(
        self, attributes: Any, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """Types of the outputs."""

    @abstractmethod
    def reference(
        self, attributes: Any, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """Computes the layer in numpy, in the arrays' own precision (callers pass float64), canonical layouts."""

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """Defines the layer in TE in canonical layouts; the default routine schedules it.

        Args:
            workload: What to compute.
            inputs: `te.Tensor` of each input.
            weights: `te.Tensor` of each weight by name.

        Returns:
            `te.Tensor` of each output.
        """
        raise NotImplementedError(f"layer kind {self.name!r} has no TE definition")

    def flops(self, workload: Workload) -> int:
        """Floating-point operations of the plain algorithm (a multiply-add counts 2)."""
        return 0

    def shares_weights(self, workload: Workload) -> bool:
        """True if time depends on weight values' residency, so that measuring rotates copies of the weights."""
        return bool(workload.weights)

    @abstractmethod
    def examples(self) -> Iterable[Workload]:
        """Small workloads that exercise the kind's corners; the conformance test runs every routine on them."""

    def workload(
        self, attributes: Any, inputs: Sequence[TensorType], weights: Mapping[str, TensorType] | None = None
    ) -> Workload:
        """Builds a workload with the output types filled in."""
        found = dict(weights or {})
        outputs = self.output_types(attributes, inputs, found)
        return Workload(self.name, attributes, tuple(inputs), outputs, tuple(sorted(found.items())))

    def sample(self, workload: Workload, seed: int = 0) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Random inputs and weights of the workload's types: normal, weights scaled by their fan-in."""
        rng = np.random.default_rng(seed)

        def draw(tensor: TensorType, scale: float) -> np.ndarray:
            if np.dtype(tensor.dtype).kind in "iub":
                return np.asarray(rng.integers(0, 2, tensor.shape)).astype(tensor.dtype)
            return np.asarray(rng.standard_normal(tensor.shape) * scale).astype(tensor.dtype)

        inputs = [draw(tensor, 1.0) for tensor in workload.inputs]
        weights = {}
        for key, tensor in workload.weights:
            fan_in = int(np.prod(tensor.shape[1:])) if tensor.rank > 1 else 1
            weights[key] = draw(tensor, float(np.sqrt(2 / max(1, fan_in))) if fan_in > 1 else 0.5)
        return inputs, weights
