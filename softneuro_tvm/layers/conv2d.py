"""Two-dimensional convolution with bias, residual add and activation: any kernel, stride, dilation, groups, padding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.activations import IDENTITY, Activation
from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind, Operand, Recognised
from softneuro_tvm.layers._convolution import (
    Residual,
    constant_weight,
    epilogue_reference,
    epilogue_te,
    four_sides,
    sum_te,
)
from softneuro_tvm.layers._sparsity import SparseAttributes, thin_out


@dataclass(frozen=True)
class Conv2dAttributes:
    """Attributes of a convolution.

    Args:
        strides: (vertical, horizontal).
        padding: Zeros added (top, left, bottom, right), as in TVM.
        dilation: (vertical, horizontal).
        groups: Groups of channels; equal to C and K for a depthwise convolution.
        activation: Applied to the sum.
        residual: Whether a second input of the output's shape is added: True before the activation, ``after`` it.
    """

    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: Activation = IDENTITY
    residual: Residual = False


@dataclass(frozen=True)
class SparseConv2dAttributes(Conv2dAttributes, SparseAttributes):
    """Attributes of a convolution of whose weights most are zero."""


class Conv2d(LayerKind):
    """``y = activation(conv(x, weight) + bias [+ residual])``, or with the residual added last.

    Shapes: x [N, C, H, W]; weight [K, C / groups, R, S]; bias [K]; slope [K] (PReLU only); y [N, K, OH, OW].
    """

    name = "conv2d"
    Attributes = Conv2dAttributes
    relax_operators = ("relax.nn.conv2d",)

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """Recognises float32 NCHW convolutions with constant OIHW weights."""
        weight = constant_weight(attrs, "OIHW", operands)
        if weight is None:
            return None
        padding = four_sides(attrs.padding)
        attributes = Conv2dAttributes(
            (int(attrs.strides[0]), int(attrs.strides[1])),
            padding,
            (int(attrs.dilation[0]), int(attrs.dilation[1])),
            int(attrs.groups),
        )
        bias = np.zeros(weight.shape[0], "float32")
        return Recognised(attributes, (0,), {"weight": weight, "bias": bias})

    def output_types(
        self, attributes: Conv2dAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """Shape [N, K, OH, OW]."""
        n, _, h, w = inputs[0].shape
        k, _, r, s = weights["weight"].shape
        top, left, bottom, right = attributes.padding
        oh = (h + top + bottom - (r - 1) * attributes.dilation[0] - 1) // attributes.strides[0] + 1
        ow = (w + left + right - (s - 1) * attributes.dilation[1] - 1) // attributes.strides[1] + 1
        return (TensorType((n, k, oh, ow), inputs[0].dtype),)

    def reference(
        self, attributes: Conv2dAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """Sums one matrix product for each kernel position."""
        x, weight = inputs[0], weights["weight"]
        types = {key: TensorType(value.shape) for key, value in weights.items()}
        n, k, oh, ow = self.output_types(attributes, [TensorType(x.shape)], types)[0].shape
        top, left, bottom, right = attributes.padding
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        groups, (sy, sx), (dy, dx) = attributes.groups, attributes.strides, attributes.dilation
        c_group, k_group = x.shape[1] // groups, k // groups
        grouped = weight.reshape(groups, k_group, *weight.shape[1:])
        y = np.zeros((n, groups, k_group, oh * ow), np.result_type(x, weight))
        for r in range(weight.shape[2]):
            for s in range(weight.shape[3]):
                rows = slice(r * dy, r * dy + (oh - 1) * sy + 1, sy)
                columns = slice(s * dx, s * dx + (ow - 1) * sx + 1, sx)
                part = padded[:, :, rows, columns].reshape(n, groups, c_group, oh * ow)
                y += grouped[None, :, :, :, r, s] @ part
        y = y.reshape(n, k, oh, ow)
        return (epilogue_reference(attributes, y, inputs, weights),)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """Padding, the direct sum, the epilogue."""
        total = sum_te(workload, inputs[0], weights["weight"])
        return [epilogue_te(workload.attributes, total, inputs, weights)]

    def flops(self, workload: Workload) -> int:
        """Two for each multiply-add of the direct algorithm."""
        _, c_group, r, s = workload.weight_types["weight"].shape
        return 2 * int(np.prod(workload.outputs[0].shape)) * c_group * r * s

    def sample(self, workload: Workload, seed: int = 0) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Random inputs and weights; the weight of a sparse layer is as dense as its attributes say."""
        inputs, weights = super().sample(workload, seed)
        if isinstance(workload.attributes, SparseAttributes):
            weights["weight"] = thin_out(weights["weight"], workload.attributes.density, seed)
        return inputs, weights

    def examples(self) -> Iterable[Workload]:
        """Odd sizes, uneven channels, strides, dilation, groups, batches, asymmetric padding, every epilogue."""
        relu, clip, silu = Activation("relu"), Activation("clip", 0.0, 6.0), Activation("silu")
        same = (1, 1, 1, 1)
        cases: list[tuple[tuple[int, int, int, int], int, tuple[int, int], Conv2dAttributes]] = [
            ((1, 16, 9, 11), 32, (3, 3), Conv2dAttributes(padding=same, activation=relu)),
            ((1, 32, 14, 14), 48, (3, 3), Conv2dAttributes(padding=same, residual=True, activation=relu)),
            ((2, 20, 7, 7), 36, (3, 3), Conv2dAttributes(padding=same)),
            ((1, 3, 33, 31), 32, (7, 7), Conv2dAttributes((2, 2), (3, 3, 3, 3), activation=relu)),
            ((1, 3, 20, 20), 24, (3, 3), Conv2dAttributes((2, 2), (0, 0, 1, 1), activation=clip)),
            ((1, 64, 13, 13), 96, (1, 1), Conv2dAttributes(activation=Activation("hard_swish"))),
            ((1, 24, 7, 7), 40, (1, 1), Conv2dAttributes(residual=True)),
            ((1, 16, 9, 10), 24, (3, 3), Conv2dAttributes(padding=same, activation=silu, residual="after")),
            ((2, 20, 7, 9), 36, (1, 1), Conv2dAttributes(activation=relu, residual="after")),
            ((1, 40, 6, 7), 40, (3, 3), Conv2dAttributes(padding=same, groups=40, activation=clip, residual="after")),
            ((1, 24, 8, 7), 32, (3, 3), Conv2dAttributes(padding=same, groups=4, activation=silu, residual="after")),
            ((1, 32, 9, 9), 32, (1, 1), SparseConv2dAttributes(0.2, activation=silu, residual="after")),
            ((2, 48, 8, 8), 32, (1, 1), Conv2dAttributes((2, 2))),
            ((1, 256, 7, 11), 256, (1, 1), Conv2dAttributes(activation=relu)),
            ((2, 40, 7, 6), 36, (1, 1), SparseConv2dAttributes(0.1, activation=Activation("prelu"), residual=True)),
            ((1, 64, 13, 13), 48, (1, 1), SparseConv2dAttributes(0.3, activation=clip)),
            ((1, 96, 1, 1), 24, (1, 1), Conv2dAttributes(activation=Activation("hard_sigmoid", 1 / 6, 0.5))),
            ((1, 32, 15, 15), 32, (3, 3), Conv2dAttributes((2, 2), same, groups=32, activation=clip)),
            ((1, 40, 14, 14), 40, (5, 5), Conv2dAttributes(padding=(2, 2, 2, 2), groups=40)),
            ((2, 20, 9, 9), 20, (3, 3), Conv2dAttributes(padding=same, groups=20, activation=Activation("silu"))),
            ((1, 64, 10, 10), 64, (3, 3), Conv2dAttributes(padding=same, groups=4, activation=relu)),
            ((1, 24, 9, 9), 48, (3, 3), Conv2dAttributes(padding=same, groups=3)),
            ((1, 16, 12, 12), 16, (3, 3), Conv2dAttributes(padding=(2, 2, 2, 2), dilation=(2, 2))),
            ((1, 16, 10, 12), 32, (1, 7), Conv2dAttributes(padding=(0, 3, 0, 3), activation=relu)),
            ((1, 16, 12, 10), 32, (7, 1), Conv2dAttributes(padding=(3, 0, 3, 0))),
            ((1, 16, 11, 11), 16, (5, 5), Conv2dAttributes(padding=(2, 2, 2, 2))),
            ((1, 20, 9, 8), 24, (3, 1), Conv2dAttributes(padding=(1, 0, 1, 0), residual=True)),
            ((1, 16, 10, 9), 16, (7, 7), Conv2dAttributes(padding=(3, 3, 3, 3), activation=relu)),
            ((1, 16, 9, 11), 24, (3, 5), Conv2dAttributes(padding=(2, 6, 2, 6), dilation=(2, 3))),
            ((1, 16, 8, 8), 32, (3, 3), Conv2dAttributes(padding=(0, 1, 2, 1), activation=Activation("prelu"))),
            ((1, 5, 6, 6), 7, (2, 2), Conv2dAttributes(activation=Activation("leaky_relu", 0.1))),
            ((1, 16, 6, 6), 16, (3, 3), Conv2dAttributes(padding=same, activation=Activation("sigmoid"))),
            ((1, 16, 6, 6), 16, (3, 3), Conv2dAttributes(padding=same, activation=Activation("tanh"))),
            ((1, 32, 5, 5), 32, (1, 1), Conv2dAttributes(activation=Activation("gelu"))),
        ]
        for shape, k, kernel, attributes in cases:
            weights = {"weight": TensorType((k, shape[1] // attributes.groups, *kernel)), "bias": TensorType((k,))}
            if attributes.activation.name == "prelu":
                weights["slope"] = TensorType((k,))
            x = TensorType(shape)
            inputs = [x, *self.output_types(attributes, [x], weights)] if attributes.residual else [x]
            yield self.workload(attributes, inputs, weights)
