"""Two-dimensional max and average pooling; global pooling has a kernel of the map's size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind, Operand, Recognised
from softneuro_tvm.layers._numpy import normalise_axes


@dataclass(frozen=True)
class Pool2dAttributes:
    """Attributes of a pooling layer.

    Args:
        mode: What happens in a window.
        kernel: (vertical, horizontal).
        strides: (vertical, horizontal).
        padding: Positions added (top, left, bottom, right).
        dilation: (vertical, horizontal).
        ceil_mode: True if the output's size is rounded up; the last windows then reach beyond the padding.
        count_include_pad: True if an average divides by padded positions too; never by positions beyond the padding.
    """

    mode: Literal["max", "average"]
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False
    count_include_pad: bool = False

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output."""
        sizes = []
        for axis, extent in enumerate((height, width)):
            span = extent + self.padding[axis] + self.padding[axis + 2] - self.dilation[axis] * (self.kernel[axis] - 1)
            rounding = self.strides[axis] - 1 if self.ceil_mode else 0
            sizes.append((span - 1 + rounding) // self.strides[axis] + 1)
        return sizes[0], sizes[1]

    def overhang(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns by which the last windows reach beyond the padding (`ceil_mode` only)."""
        found = []
        for axis, (extent, out) in enumerate(zip((height, width), self.output_size(height, width), strict=True)):
            reach = (out - 1) * self.strides[axis] + self.dilation[axis] * (self.kernel[axis] - 1) + 1
            found.append(max(0, reach - extent - self.padding[axis] - self.padding[axis + 2]))
        return found[0], found[1]


class Pool2d(LayerKind):
    """Largest or mean value of each window. Shapes: x [N, C, H, W]; y [N, C, OH, OW]."""

    name = "pool2d"
    Attributes = Pool2dAttributes
    relax_operators = (
        "relax.nn.max_pool2d",
        "relax.nn.avg_pool2d",
        "relax.nn.adaptive_avg_pool2d",
        "relax.mean",
        "relax.max",
    )

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """Recognises float32 NCHW pooling, means and maxima that keep the map's axes, and even adaptive pooling."""
        data = operands[0].type
        if operands[0].value is not None or data.dtype != "float32" or data.rank != 4:
            return None
        height, width = data.shape[2:]
        if operator in ("relax.mean", "relax.max"):
            if not attrs.keepdims or normalise_axes(attrs.axis, 4) != (2, 3):
                return None
            mode: Literal["max", "average"] = "max" if operator == "relax.max" else "average"
            return Recognised(Pool2dAttributes(mode, (height, width)), (0,), {})
        if attrs.layout != "NCHW" or attrs.out_layout not in (None, "", "NCHW"):
            return None
        if operator == "relax.nn.adaptive_avg_pool2d":
            rows, columns = (int(n) for n in attrs.output_size) if attrs.output_size is not None else (height, width)
            if height % rows or width % columns:
                return None
            kernel = (height // rows, width // columns)
            strides = kernel if (rows, columns) != (1, 1) else (1, 1)
            return Recognised(Pool2dAttributes("average", kernel, strides), (0,), {})
        attributes = Pool2dAttributes(
            "max" if operator == "relax.nn.max_pool2d" else "average",
            (int(attrs.pool_size[0]), int(attrs.pool_size[1])),
            (int(attrs.strides[0]), int(attrs.strides[1])),
            (int(attrs.padding[0]), int(attrs.padding[1]), int(attrs.padding[2]), int(attrs.padding[3])),
            (int(attrs.dilation[0]), int(attrs.dilation[1])),
            bool(attrs.ceil_mode),
            bool(attrs.count_include_pad),
        )
        last = [
            (out - 1) * step
            for out, step in zip(attributes.output_size(height, width), attributes.strides, strict=True)
        ]
        if last[0] >= height + attributes.padding[0] or last[1] >= width + attributes.padding[1]:
            return None  # a window without any element: front ends disagree about its value
        return Recognised(attributes, (0,), {})

    def output_types(
        self, attributes: Pool2dAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """Shape [N, C, OH, OW]."""
        n, c, h, w = inputs[0].shape
        return (TensorType((n, c, *attributes.output_size(h, w)), inputs[0].dtype),)

    def _windows(self, attributes: Pool2dAttributes, x: np.ndarray, margin: float, beyond: float) -> list[np.ndarray]:
        """The element of every window at each kernel position: R * S arrays [N, C, OH, OW]."""
        top, left, bottom, right = attributes.padding
        below, beside = attributes.overhang(x.shape[2], x.shape[3])
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=margin)
        x = np.pad(x, ((0, 0), (0, 0), (0, below), (0, beside)), constant_values=beyond)
        (sy, sx), (dy, dx) = attributes.strides, attributes.dilation
        oh = (x.shape[2] - dy * (attributes.kernel[0] - 1) - 1) // sy + 1
        ow = (x.shape[3] - dx * (attributes.kernel[1] - 1) - 1) // sx + 1
        return [
            x[:, :, r * dy : r * dy + (oh - 1) * sy + 1 : sy, s * dx : s * dx + (ow - 1) * sx + 1 : sx]
            for r in range(attributes.kernel[0])
            for s in range(attributes.kernel[1])
        ]

    def reference(
        self, attributes: Pool2dAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """Combines one array for each kernel position."""
        x = inputs[0]
        if attributes.mode == "max":
            return (np.maximum.reduce(self._windows(attributes, x, -np.inf, -np.inf)),)
        ones = self._windows(attributes, np.ones_like(x), float(attributes.count_include_pad), 0.0)
        return (sum(self._windows(attributes, x, 0.0, 0.0)) / np.maximum(sum(ones), 1),)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """Padding, the largest value or the sum, the division by a count that is known for each position."""
        from tvm import te, tirx, topi

        attributes, x = workload.attributes, inputs[0]
        height, width = workload.inputs[0].shape[2:]
        top, left, bottom, right = attributes.padding
        below, beside = attributes.overhang(height, width)
        maximum = attributes.mode == "max"
        if any((*attributes.padding, below, beside)):
            value = tirx.min_value("float32") if maximum else 0.0
            x = topi.nn.pad(x, (0, 0, top, left), (0, 0, bottom + below, right + beside), value, "pad")
        (sy, sx), (dy, dx) = attributes.strides, attributes.dilation
        r, s = (te.reduce_axis((0, extent)) for extent in attributes.kernel)
        combine = te.max if maximum else te.sum
        shape = workload.outputs[0].shape
        y = te.compute(
            shape, lambda n, c, i, j: combine(x[n, c, i * sy + r * dy, j * sx + s * dx], axis=[r, s]), "pool2d"
        )
        if maximum:
            return [y]

        def counted(index: Any, axis: int, extent: int) -> Any:
            """Positions of a window along one axis that the mean divides by."""
            step, reach = attributes.dilation[axis], attributes.kernel[axis]
            before, after = attributes.padding[axis], attributes.padding[axis + 2]
            low, high = (0, before + extent + after) if attributes.count_include_pad else (before, before + extent)
            if attributes.overhang(height, width)[axis] == 0 and (attributes.count_include_pad or before == after == 0):
                return reach
            start = index * attributes.strides[axis]
            first = tirx.max(tirx.truncdiv(tirx.max(low - start, 0) + step - 1, step), 0)
            last = tirx.min(tirx.truncdiv(tirx.max(high - start, 0) + step - 1, step), reach)
            return last - first

        def mean(n: Any, c: Any, i: Any, j: Any) -> Any:
            count = tirx.max(counted(i, 0, height) * counted(j, 1, width), 1)
            return y[n, c, i, j] / tirx.Cast("float32", count)

        return [te.compute(shape, mean, "mean")]

    def flops(self, workload: Workload) -> int:
        """One for each element of each window."""
        return int(np.prod(workload.outputs[0].shape)) * int(np.prod(workload.attributes.kernel))

    def examples(self) -> Iterable[Workload]:
        """Both modes, strides, padding with and without counting it, dilation, ceil mode, global pooling, batches."""
        same = (1, 1, 1, 1)
        cases: list[tuple[tuple[int, int, int, int], Pool2dAttributes]] = [
            ((1, 16, 12, 12), Pool2dAttributes("max", (3, 3), (2, 2), same)),
            ((2, 20, 9, 11), Pool2dAttributes("max", (2, 2), (2, 2))),
            ((1, 5, 10, 10), Pool2dAttributes("max", (3, 3), (2, 2), ceil_mode=True)),
            ((1, 8, 11, 9), Pool2dAttributes("max", (2, 3), (1, 2), (1, 0, 0, 1), (2, 1))),
            ((1, 16, 8, 8), Pool2dAttributes("average", (3, 3), (1, 1), same)),
            ((2, 7, 8, 8), Pool2dAttributes("average", (3, 3), (2, 2), same, count_include_pad=True)),
            ((1, 12, 6, 6), Pool2dAttributes("average", (3, 3), (2, 2), (0, 0, 1, 1), (1, 1), True, True)),
            ((1, 9, 6, 6), Pool2dAttributes("average", (2, 2), (2, 2))),
            ((1, 40, 7, 7), Pool2dAttributes("average", (7, 7))),
            ((2, 19, 5, 3), Pool2dAttributes("average", (5, 3))),
            ((1, 16, 4, 4), Pool2dAttributes("max", (4, 4))),
        ]
        for shape, attributes in cases:
            yield self.workload(attributes, [TensorType(shape)])
