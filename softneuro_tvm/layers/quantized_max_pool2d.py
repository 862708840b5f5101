"""Two-dimensional max pooling of integers, whatever they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind, Operand, Recognised
from softneuro_tvm.layers._quantized import DTYPES, draw
from softneuro_tvm.layers.pool2d import Pool2d, Pool2dAttributes


class QuantizedMaxPool2d(LayerKind):
    """Largest element of each window. Shapes: x int8 or uint8 [N, C, H, W]; y of the same type [N, C, OH, OW]."""

    name = "quantized_max_pool2d"
    Attributes = Pool2dAttributes
    relax_operators = ("relax.nn.max_pool2d",)

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """Recognises what the kind `pool2d` does for float32."""
        data = operands[0]
        if data.type.dtype not in DTYPES:
            return None
        return Pool2d().from_relax(operator, attrs, [Operand(TensorType(data.type.shape), data.value)])

    def output_types(
        self, attributes: Pool2dAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """Shape [N, C, OH, OW]."""
        return Pool2d().output_types(attributes, inputs, weights)

    def reference(
        self, attributes: Pool2dAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """The largest of float64 numbers, which hold the integers exactly."""
        (y,) = Pool2d().reference(attributes, [inputs[0].astype(np.float64)], weights)
        return (y.astype(inputs[0].dtype),)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """Padding with the smallest element, the largest value."""
        from tvm import te, tirx, topi

        attributes, x = workload.attributes, inputs[0]
        top, left, bottom, right = attributes.padding
        below, beside = attributes.overhang(*workload.inputs[0].shape[2:])
        if any((*attributes.padding, below, beside)):
            lowest = tirx.min_value(x.dtype)
            x = topi.nn.pad(x, (0, 0, top, left), (0, 0, bottom + below, right + beside), lowest, "pad")
        (sy, sx), (dy, dx) = attributes.strides, attributes.dilation
        r, s = (te.reduce_axis((0, extent)) for extent in attributes.kernel)

        def largest(n: Any, c: Any, i: Any, j: Any) -> Any:
            return te.max(x[n, c, i * sy + r * dy, j * sx + s * dx], axis=[r, s])

        return [te.compute(workload.outputs[0].shape, largest, "quantized_max_pool2d")]

    def flops(self, workload: Workload) -> int:
        """One for each element of each window."""
        return Pool2d().flops(workload)

    def sample(self, workload: Workload, seed: int = 0) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Integers over the whole range."""
        return [draw(workload.inputs[0], np.random.default_rng(seed))], {}

    def examples(self) -> Iterable[Workload]:
        """Strides, padding, dilation, ceil mode, the whole map, uneven channels, batches, both types."""
        cases: list[tuple[tuple[int, int, int, int], Pool2dAttributes, str]] = [
            ((1, 16, 12, 12), Pool2dAttributes("max", (3, 3), (2, 2), (1, 1, 1, 1)), "uint8"),
            ((2, 20, 9, 11), Pool2dAttributes("max", (2, 2), (2, 2)), "int8"),
            ((1, 5, 10, 10), Pool2dAttributes("max", (3, 3), (2, 2), ceil_mode=True), "int8"),
            ((1, 8, 11, 9), Pool2dAttributes("max", (2, 3), (1, 2), (1, 0, 0, 1), (2, 1)), "uint8"),
            ((1, 32, 7, 7), Pool2dAttributes("max", (5, 5), (1, 1), (2, 2, 2, 2)), "int8"),
            ((1, 16, 4, 4), Pool2dAttributes("max", (4, 4)), "uint8"),
        ]
        for shape, attributes, dtype in cases:
            yield self.workload(attributes, [TensorType(shape, dtype)])
