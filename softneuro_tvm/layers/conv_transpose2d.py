"""Two-dimensional transposed convolution with bias, residual add and activation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.activations import IDENTITY, Activation
from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind, Operand, Recognised
from softneuro_tvm.layers._convolution import Residual, constant_weight, epilogue_reference, epilogue_te, four_sides


@dataclass(frozen=True)
class ConvTranspose2dAttributes:
    """Attributes of a transposed convolution.

    Args:
        strides: Distance of neighbouring inputs in the output (vertical, horizontal).
        padding: Rows and columns cut off the output (top, left, bottom, right), as in TVM.
        output_padding: Rows added at the bottom and columns added on the right.
        dilation: Distance of neighbouring kernel positions in the output (vertical, horizontal).
        groups: Groups of channels.
        activation: Applied to the sum.
        residual: Whether a second input of the output's shape is added: True before the activation, ``after`` it.
    """

    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    output_padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: Activation = IDENTITY
    residual: Residual = False

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
        """Height and width of the output."""
        rows, columns = (
            (size[i] - 1) * self.strides[i]
            + (kernel[i] - 1) * self.dilation[i]
            + 1
            + self.output_padding[i]
            - self.padding[i]
            - self.padding[i + 2]
            for i in (0, 1)
        )
        return rows, columns


class ConvTranspose2d(LayerKind):
    """``y[i sy + r dy - top, j sx + s dx - left] += x[i, j] weight[r, s]``, then bias, residual, activation.

    Shapes: x [N, C, H, W]; weight [K, C / groups, R, S], output channels first as in a convolution; bias [K];
    slope [K] (PReLU only); y [N, K, OH, OW].
    """

    name = "conv_transpose2d"
    Attributes = ConvTranspose2dAttributes
    relax_operators = ("relax.nn.conv2d_transpose",)

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """Recognises float32 NCHW transposed convolutions with constant IOHW weights."""
        weight = constant_weight(attrs, "IOHW", operands)
        if weight is None:
            return None
        padding = four_sides(attrs.padding)
        attributes = ConvTranspose2dAttributes(
            (int(attrs.strides[0]), int(attrs.strides[1])),
            padding,
            (int(attrs.output_padding[0]), int(attrs.output_padding[1])),
            (int(attrs.dilation[0]), int(attrs.dilation[1])),
            int(attrs.groups),
        )
        if min(padding) < 0 or min(attributes.output_size(operands[0].type.shape[2:], weight.shape[2:])) < 1:
            return None
        c, k_group, *kernel = weight.shape
        grouped = weight.reshape(attributes.groups, -1, k_group, *kernel).swapaxes(1, 2)
        k = attributes.groups * k_group
        weights = {
            "weight": np.ascontiguousarray(grouped.reshape(k, c // attributes.groups, *kernel)),
            "bias": np.zeros(k, "float32"),
        }
        return Recognised(attributes, (0,), weights)

    def output_types(
        self, attributes: ConvTranspose2dAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """Shape [N, K, OH, OW]."""
        k, _, *kernel = weights["weight"].shape
        size = attributes.output_size(inputs[0].shape[2:], kernel)
        return (TensorType((inputs[0].shape[0], k, *size), inputs[0].dtype),)

    def reference(
        self, attributes: ConvTranspose2dAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """Adds one matrix product for each kernel position to every stride-th output."""
        x, weight = inputs[0], weights["weight"]
        n, c, h, w = x.shape
        k, _, r_extent, s_extent = weight.shape
        groups, (sy, sx), (dy, dx) = attributes.groups, attributes.strides, attributes.dilation
        top, left, _, _ = attributes.padding
        oh, ow = attributes.output_size((h, w), (r_extent, s_extent))
        reach = max(top + oh, (h - 1) * sy + (r_extent - 1) * dy + 1)
        width = max(left + ow, (w - 1) * sx + (s_extent - 1) * dx + 1)
        whole = np.zeros((n, k, reach, width), np.result_type(x, weight))
        grouped = weight.reshape(groups, k // groups, c // groups, r_extent, s_extent)
        flat = x.reshape(n, groups, c // groups, h * w)
        for r in range(r_extent):
            for s in range(s_extent):
                part = (grouped[None, ..., r, s] @ flat).reshape(n, k, h, w)
                rows, columns = (
                    slice(r * dy, r * dy + (h - 1) * sy + 1, sy),
                    slice(s * dx, s * dx + (w - 1) * sx + 1, sx),
                )
                whole[:, :, rows, columns] += part
        y = whole[:, :, top : top + oh, left : left + ow]
        return (epilogue_reference(attributes, y, inputs, weights),)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """Zeros between and around the inputs, the direct sum with the turned kernel, the epilogue."""
        from tvm import te, topi

        attributes, x, weight = workload.attributes, inputs[0], weights["weight"]
        k, c_group, r_extent, s_extent = (int(extent) for extent in weight.shape)
        (sy, sx), (dy, dx), (top, left, _, _) = attributes.strides, attributes.dilation, attributes.padding
        _, _, h, w = workload.inputs[0].shape
        _, _, oh, ow = workload.outputs[0].shape
        above, beside = (r_extent - 1) * dy, (s_extent - 1) * dx
        spread = topi.nn.dilate(x, (1, 1, sy, sx), name="spread")
        below = max(0, top + oh - 1 - (h - 1) * sy)
        right = max(0, left + ow - 1 - (w - 1) * sx)
        padded = topi.nn.pad(spread, (0, 0, above, beside), (0, 0, below, right), name="pad")
        k_group = k // attributes.groups
        c, r, s = te.reduce_axis((0, c_group)), te.reduce_axis((0, r_extent)), te.reduce_axis((0, s_extent))
        shape = workload.outputs[0].shape

        def summed(n: Any, f: Any, y: Any, z: Any) -> Any:
            row, column = y + top + above - r * dy, z + left + beside - s * dx
            return te.sum(padded[n, f // k_group * c_group + c, row, column] * weight[f, c, r, s], [c, r, s])

        total = te.compute(shape, summed, "conv_transpose2d")

        return [epilogue_te(attributes, total, inputs, weights)]

    def flops(self, workload: Workload) -> int:
        """Two for each multiply-add of an input with a weight, those that padding cuts off included."""
        k, _, r, s = workload.weight_types["weight"].shape
        return 2 * int(np.prod(workload.inputs[0].shape)) * (k // int(workload.attributes.groups)) * r * s

    def examples(self) -> Iterable[Workload]:
        """Kernels as large as the stride, larger, smaller; cut borders, dilation, groups, batches, every epilogue."""
        relu, same = Activation("relu"), (1, 1, 1, 1)
        cases: list[tuple[tuple[int, int, int, int], int, tuple[int, int], ConvTranspose2dAttributes]] = [
            ((1, 32, 9, 11), 16, (2, 2), ConvTranspose2dAttributes((2, 2))),
            ((2, 20, 5, 7), 36, (2, 2), ConvTranspose2dAttributes((2, 2), activation=relu)),
            ((1, 16, 4, 4), 48, (2, 2), ConvTranspose2dAttributes((2, 2), residual=True, activation=relu)),
            ((1, 16, 5, 4), 20, (2, 2), ConvTranspose2dAttributes((2, 2), residual="after", activation=relu)),
            ((1, 16, 6, 5), 24, (3, 3), ConvTranspose2dAttributes((2, 2), same, (1, 1))),
            ((2, 7, 8, 9), 5, (3, 3), ConvTranspose2dAttributes((2, 2), output_padding=(1, 0))),
            ((1, 32, 8, 8), 16, (4, 4), ConvTranspose2dAttributes((2, 2), same, activation=relu)),
            ((1, 48, 1, 1), 32, (4, 4), ConvTranspose2dAttributes()),
            ((2, 24, 13, 17), 40, (4, 4), ConvTranspose2dAttributes((2, 2), same, residual=True)),
            ((1, 16, 7, 7), 21, (3, 3), ConvTranspose2dAttributes((1, 1), same, activation=Activation("prelu"))),
            ((1, 12, 5, 6), 16, (5, 5), ConvTranspose2dAttributes((3, 2), (2, 1, 1, 2), (2, 1))),
            ((1, 16, 6, 6), 8, (2, 2), ConvTranspose2dAttributes((3, 3), output_padding=(2, 0))),
            ((1, 16, 5, 5), 16, (3, 3), ConvTranspose2dAttributes((2, 2), same, dilation=(2, 2))),
            ((1, 8, 7, 5), 32, (3, 2), ConvTranspose2dAttributes((3, 2), (1, 0, 2, 1), dilation=(2, 3))),
            ((1, 10, 4, 4), 16, (8, 8), ConvTranspose2dAttributes((4, 4), (2, 2, 2, 2))),
            ((1, 16, 3, 33), 16, (4, 4), ConvTranspose2dAttributes((4, 4), activation=Activation("sigmoid"))),
            ((1, 24, 6, 6), 12, (2, 2), ConvTranspose2dAttributes((2, 2), groups=3)),
            ((2, 8, 5, 5), 8, (4, 4), ConvTranspose2dAttributes((2, 2), same, groups=8)),
        ]
        for shape, k, kernel, attributes in cases:
            weights = {"weight": TensorType((k, shape[1] // attributes.groups, *kernel)), "bias": TensorType((k,))}
            if attributes.activation.name == "prelu":
                weights["slope"] = TensorType((k,))
            x = TensorType(shape)
            inputs = [x, *self.output_types(attributes, [x], weights)] if attributes.residual else [x]
            yield self.workload(attributes, inputs, weights)
