"""The adapter between two element types, and perhaps two layouts, as a layer kind: logically a rounding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind


@dataclass(frozen=True)
class DtypeCastAttributes:
    """Attributes of a cast.

    Args:
        source: TVM layout string of the buffer that is read, e.g. ``NCHW4c``.
        target: TVM layout string of the buffer that is written, e.g. ``NCHW8c``.
        dtype: Element type that is written, e.g. ``float16``.
    """

    source: str
    target: str
    dtype: str


class DtypeCast(LayerKind):
    """``y = x`` in another element type and layout. Adapters are measured like any other layer."""

    name = "dtype_cast"
    Attributes = DtypeCastAttributes

    def output_types(
        self, attributes: DtypeCastAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """The input's shape in the other element type."""
        return (replace(inputs[0], dtype=attributes.dtype),)

    def reference(
        self, attributes: DtypeCastAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """The identity: rounding is the routine's error."""
        return (inputs[0],)

    def examples(self) -> Iterable[Workload]:
        """Both ways between float32 and float16; blocks of different sizes, ranks 1 to 4, one layout and two."""
        cases: list[tuple[tuple[int, ...], str, str]] = [
            ((1, 32, 5, 7), "NCHW4c", "NCHW8c"),
            ((1, 36, 5, 7), "NCHW4c", "NCHW8c"),
            ((1, 20, 6, 6), "NCHW8c", "NCHW8c"),
            ((1, 32, 8, 9), "NCHW", "NCHW8c"),
            ((2, 20, 6, 6), "NCHW", "NCHW8c"),
            ((1, 24, 4, 5), "NHWC", "NCHW8c"),
            ((1, 24, 4, 5), "NHWC", "NHWC"),
            ((1, 3, 9, 9), "NCHW", "NHWC"),
            ((1, 3, 19, 21), "NCHW", "NCHW"),
            ((1, 64, 1, 1), "NCHW4c", "NCHW"),
            ((3, 10, 40), "NCW", "NCW"),
            ((2, 45), "NC", "NC"),
            ((5,), "C", "C"),
        ]
        for shape, one, other in cases:
            for source, target in dict.fromkeys([(one, other), (other, one)]):
                yield self.workload(DtypeCastAttributes(source, target, "float16"), [TensorType(shape)])
                yield self.workload(DtypeCastAttributes(source, target, "float32"), [TensorType(shape, "float16")])
