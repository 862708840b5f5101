"""What a layer kind must define. One file of `softneuro_tvm.layers` defines one kind; scanning finds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload


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
