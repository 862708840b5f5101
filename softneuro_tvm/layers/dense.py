"""Fully connected layer: a matrix product with constant weights, bias, residual add and activation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.activations import IDENTITY, Activation
from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind, Operand, Recognised
from softneuro_tvm.layers._convolution import Residual, activated
from softneuro_tvm.layers._sparsity import SparseAttributes, thin_out
from softneuro_tvm.layers._te import activate


@dataclass(frozen=True)
class DenseAttributes:
    """Attributes of a fully connected layer.

    Args:
        activation: Applied to the sum.
        residual: Whether a second input of the output's shape is added: True before the activation, ``after`` it.
    """

    activation: Activation = IDENTITY
    residual: Residual = False


@dataclass(frozen=True)
class SparseDenseAttributes(DenseAttributes, SparseAttributes):
    """Attributes of a fully connected layer of whose weights most are zero."""


class Dense(LayerKind):
    """``y = activation(x @ weight.T + bias [+ residual])``, or with the residual added last.

    Shapes: x [..., C] of rank 2 or more; weight [K, C]; bias [K]; slope [K] (PReLU only); y [..., K].
    """

    name = "dense"
    Attributes = DenseAttributes
    relax_operators = ("relax.matmul",)

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """Recognises float32 products of an activation of rank 2 or more with a constant matrix [C, K]."""
        data, weight = operands
        if data.value is not None or weight.value is None or data.type.rank < 2 or weight.type.rank != 2:
            return None
        if data.type.dtype != "float32" or weight.type.dtype != "float32":
            return None
        if attrs.out_dtype not in (None, "", "void", "float32"):
            return None
        transposed = np.ascontiguousarray(weight.value.T)
        return Recognised(
            DenseAttributes(), (0,), {"weight": transposed, "bias": np.zeros(transposed.shape[0], "float32")}
        )

    def output_types(
        self, attributes: DenseAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """Shape [..., K]."""
        return (TensorType((*inputs[0].shape[:-1], weights["weight"].shape[0]), inputs[0].dtype),)

    def reference(
        self, attributes: DenseAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """One matrix product."""
        y = inputs[0] @ weights["weight"].T + weights["bias"]
        function, slope = attributes.activation.reference, weights.get("slope")
        return (activated(y, attributes.residual, lambda: inputs[1], lambda y: function(y, slope)),)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """The sum, the epilogue."""
        from tvm import te

        attributes, x, weight = workload.attributes, inputs[0], weights["weight"]
        c = te.reduce_axis((0, int(weight.shape[1])))
        shape = workload.outputs[0].shape
        total = te.compute(shape, lambda *i: te.sum(x(*i[:-1], c) * weight[i[-1], c], [c]), "dense")

        def epilogue(*i: Any) -> Any:
            slope = weights["slope"][i[-1]] if "slope" in weights else None
            return activated(
                total(*i) + weights["bias"][i[-1]],
                attributes.residual,
                lambda: inputs[1](*i),
                lambda value: activate(value, attributes.activation, slope),
            )

        return [te.compute(shape, epilogue, "epilogue")]

    def flops(self, workload: Workload) -> int:
        """Two for each multiply-add."""
        return 2 * int(np.prod(workload.outputs[0].shape)) * workload.inputs[0].shape[-1]

    def sample(self, workload: Workload, seed: int = 0) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Random inputs and weights; the weight of a sparse layer is as dense as its attributes say."""
        inputs, weights = super().sample(workload, seed)
        if isinstance(workload.attributes, SparseAttributes):
            weights["weight"] = thin_out(weights["weight"], workload.attributes.density, seed)
        return inputs, weights

    def examples(self) -> Iterable[Workload]:
        """Vectors and matrices, batches, uneven sizes, higher ranks, every kind of epilogue."""
        relu = Activation("relu")
        cases: list[tuple[tuple[int, ...], int, DenseAttributes]] = [
            ((1, 64), 48, DenseAttributes()),
            ((1, 37), 10, DenseAttributes(relu)),
            ((2, 40), 33, DenseAttributes(relu, residual=True)),
            ((16, 32), 64, DenseAttributes(Activation("gelu"))),
            ((1, 9, 24), 20, DenseAttributes(residual=True)),
            ((3, 40), 50, DenseAttributes(Activation("gelu"), residual="after")),
            ((64, 256), 128, DenseAttributes(relu, residual="after")),
            ((20, 48), 32, SparseDenseAttributes(0.3, relu, residual="after")),
            ((2, 3, 5, 16), 24, DenseAttributes(Activation("clip", 0.0, 6.0))),
            ((3, 16), 16, DenseAttributes(Activation("prelu"))),
            ((1, 1), 1, DenseAttributes(Activation("tanh"))),
            ((70, 512), 256, DenseAttributes(relu, residual=True)),
            ((37, 64), 48, SparseDenseAttributes(0.2, Activation("gelu"), residual=True)),
            ((2, 19, 32), 32, SparseDenseAttributes(0.05)),
            ((1, 200), 150, SparseDenseAttributes(0.3, relu)),
            ((2, 2, 64), 24, SparseDenseAttributes(0.1, Activation("gelu"), residual=True)),
        ]
        for shape, k, attributes in cases:
            weights = {"weight": TensorType((k, shape[-1])), "bias": TensorType((k,))}
            if attributes.activation.name == "prelu":
                weights["slope"] = TensorType((k,))
            x = TensorType(shape)
            inputs = [x, *self.output_types(attributes, [x], weights)] if attributes.residual else [x]
            yield self.workload(attributes, inputs, weights)
