"""The adapter between two layouts as a layer kind: logically the identity, physically a copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind


@dataclass(frozen=True)
class LayoutCastAttributes:
    """Attributes of a layout cast.

    Args:
        source: TVM layout string of the buffer that is read, e.g. ``NCHW``.
        target: TVM layout string of the buffer that is written, e.g. ``NCHW16c``.
    """

    source: str
    target: str


class LayoutCast(LayerKind):
    """``y = x``, in another layout. Adapters are measured like any other layer."""

    name = "layout_cast"
    Attributes = LayoutCastAttributes

    def output_types(
        self, attributes: LayoutCastAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """The input's type."""
        return (inputs[0],)

    def reference(
        self, attributes: LayoutCastAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """The identity."""
        return (inputs[0],)

    def examples(self) -> Iterable[Workload]:
        """Into, out of and between blocked layouts; even and uneven channels; ranks 2 to 4; batches."""
        cases: list[tuple[tuple[int, ...], str, str]] = [
            ((1, 32, 5, 7), "NCHW", "NCHW16c"),
            ((1, 32, 5, 7), "NCHW16c", "NCHW"),
            ((2, 20, 6, 6), "NCHW", "NCHW8c"),
            ((2, 20, 6, 6), "NCHW8c", "NCHW"),
            ((1, 24, 4, 5), "NCHW8c", "NCHW16c"),
            ((1, 20, 4, 5), "NCHW16c", "NCHW4c"),
            ((1, 3, 9, 9), "NCHW", "NHWC"),
            ((2, 17, 3, 4), "NHWC", "NCHW16c"),
            ((2, 40), "NC", "NC16c"),
            ((2, 40), "NC16c", "NC"),
        ]
        for shape, source, target in cases:
            yield self.workload(LayoutCastAttributes(source, target), [TensorType(shape)])
