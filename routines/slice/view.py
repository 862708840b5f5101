"""Slices that stay where they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.slice import InPlaceSliceAttributes, slice_offset
from softneuro_tvm.memory import ALIGNMENT
from softneuro_tvm.routine import Nested, Requirement, Routine, Variant

from .._copy import COPYABLE
from .._half import ROUNDING, also_in_float16
from .block import Block


def _offset(workload: Workload, layout: str) -> int | None:
    """Where the output lies in the input; None if a kernel could not read it there."""
    found = slice_offset(workload.inputs[0], workload.attributes, layout)
    return None if found is None or found % ALIGNMENT else found


def _variants(workload: Workload, device: Device) -> Iterable[Variant]:
    return (v for v in Block().variants(workload, device) if _offset(workload, v.inputs[0].layout) is not None)


@also_in_float16(lambda workload, variant: ROUNDING)
class ViewSlice(Routine):
    """A part of the input's memory. Where the input lies outside the arena, the part is copied.

    Shapes: slices that are one run of memory, from a cache line on. Error: none.
    """

    kind = "slice"
    source = "Harris et al., Array Programming with NumPy, Nature 2020 (views)"
    is_view = True
    requirements = (
        COPYABLE,
        Requirement(
            "an input and an output that the model neither takes nor returns, even under another shape, and an output "
            "that is no input of a concatenation in place",
            lambda w, d: isinstance(w.attributes, InPlaceSliceAttributes),
        ),
        Requirement(
            "one run of memory that begins at a multiple of 64 bytes",
            lambda w, d: any(True for _ in _variants(w, d)),
        ),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One for each layout in which the output is a run of the input."""
        return _variants(workload, device)

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Exact."""
        return 0.0

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Says where the output lies, and how to copy it."""
        offset = _offset(workload, variant.inputs[0].layout)
        assert offset is not None
        return Nested(Block().emit(workload, variant, device), (offset,), splits=True)
