"""Concatenation of what was written side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.concat import InPlaceConcatAttributes, part_offsets
from softneuro_tvm.memory import ALIGNMENT
from softneuro_tvm.routine import Nested, Requirement, Routine, Variant

from .._copy import COPYABLE
from .._half import ROUNDING, also_in_float16
from .blocks import Blocks


def _offsets(workload: Workload, layout: str) -> tuple[int, ...] | None:
    """Where the inputs lie in the output; None if a kernel could not write them there."""
    found = part_offsets(workload.inputs, workload.attributes.axis, layout)
    return None if found is None or any(offset % ALIGNMENT for offset in found) else found


def _variants(workload: Workload, device: Device) -> Iterable[Variant]:
    return (v for v in Blocks().variants(workload, device) if _offsets(workload, v.outputs[0].layout) is not None)


@also_in_float16(lambda workload, variant: ROUNDING)
class InPlace(Routine):
    """The inputs are written into the output's memory by the layers that compute them: nothing is left to do.

    Where one of them cannot be, they are copied.

    Shapes: inputs that lie one after the other in the output, each beginning at a cache line. Error: none.
    """

    kind = "concat"
    source = "Pleiss et al., Memory-Efficient Implementation of DenseNets, 2017 (shared storage)"
    is_view = True
    requirements = (
        COPYABLE,
        Requirement(
            "inputs that layers write and no other concatenation joins, and an output that the model does not return",
            lambda w, d: isinstance(w.attributes, InPlaceConcatAttributes),
        ),
        Requirement(
            "inputs that lie one after the other in the output, from multiples of 64 bytes on",
            lambda w, d: any(True for _ in _variants(w, d)),
        ),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One for each layout in which the inputs are runs of the output."""
        return _variants(workload, device)

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Exact."""
        return 0.0

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Says where the inputs lie, and how to copy them."""
        offsets = _offsets(workload, variant.outputs[0].layout)
        assert offsets is not None
        return Nested(Blocks().emit(workload, variant, device), offsets)
