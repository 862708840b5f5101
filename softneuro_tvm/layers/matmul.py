"""Product of two activations, batched with broadcasting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind, Operand, Recognised
from softneuro_tvm.layers._te import broadcast


@dataclass(frozen=True)
class MatmulAttributes:
    """Attributes of a matrix product.

    Args:
        transpose_a: True if the first input is stored [..., K, M].
        transpose_b: True if the second input is stored [..., N, K].
    """

    transpose_a: bool = False
    transpose_b: bool = False


class Matmul(LayerKind):
    """``y = a @ b``. Shapes: a [..., M, K], b [..., K, N] of rank 2 or more, y [..., M, N]; leading axes broadcast."""

    name = "matmul"
    Attributes = MatmulAttributes
    relax_operators = ("relax.matmul",)

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """Recognises float32 products of two activations of rank 2 or more."""
        if any(o.value is not None or o.type.rank < 2 or o.type.dtype != "float32" for o in operands):
            return None
        if attrs.out_dtype not in (None, "", "void", "float32"):
            return None
        return Recognised(MatmulAttributes(), (0, 1), {})

    def output_types(
        self, attributes: MatmulAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """Shape [..., M, N]."""
        a, b = inputs[0].shape, inputs[1].shape
        batch = np.broadcast_shapes(a[:-2], b[:-2])
        m = a[-1] if attributes.transpose_a else a[-2]
        n = b[-2] if attributes.transpose_b else b[-1]
        return (TensorType((*batch, m, n), inputs[0].dtype),)

    def reference(
        self, attributes: MatmulAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """One numpy product."""
        a = inputs[0].swapaxes(-1, -2) if attributes.transpose_a else inputs[0]
        b = inputs[1].swapaxes(-1, -2) if attributes.transpose_b else inputs[1]
        return (a @ b,)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """The sum."""
        from tvm import te

        attributes, (a, b) = workload.attributes, inputs
        k = te.reduce_axis((0, int(a.shape[-2 if attributes.transpose_a else -1])))

        def product(*i: Any) -> Any:
            left = (*i[:-2], k, i[-2]) if attributes.transpose_a else (*i[:-2], i[-2], k)
            right = (*i[:-2], i[-1], k) if attributes.transpose_b else (*i[:-2], k, i[-1])
            return te.sum(broadcast(a, left) * broadcast(b, right), [k])

        return [te.compute(workload.outputs[0].shape, product, "matmul")]

    def flops(self, workload: Workload) -> int:
        """Two for each multiply-add."""
        k = workload.inputs[0].shape[-2 if workload.attributes.transpose_a else -1]
        return 2 * int(np.prod(workload.outputs[0].shape)) * k

    def examples(self) -> Iterable[Workload]:
        """Ranks 2 to 4, broadcast batches, both transpositions, uneven sizes."""
        cases: list[tuple[tuple[int, ...], tuple[int, ...], MatmulAttributes]] = [
            ((16, 24), (24, 32), MatmulAttributes()),
            ((2, 7, 13), (2, 13, 5), MatmulAttributes()),
            ((2, 3, 9, 8), (2, 3, 11, 8), MatmulAttributes(transpose_b=True)),
            ((1, 4, 8, 9), (4, 8, 6), MatmulAttributes(transpose_a=True)),
            ((5, 1, 6, 4), (1, 3, 7, 4), MatmulAttributes(transpose_b=True)),
            ((6, 5), (2, 7, 6), MatmulAttributes(True, True)),
        ]
        for a, b, attributes in cases:
            yield self.workload(attributes, [TensorType(a), TensorType(b)])
