"""Concatenation along channels where blocks do not line up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, block_of
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import blocked_layouts
from .._half import ROUNDING, also_in_float16
from ..gather_channels._gather import select_channels


@also_in_float16(lambda workload, variant: ROUNDING)
class Channels(Routine):
    """Concatenation in NCHWc as a selection of channels: lanes of neighbouring blocks are shifted into place.

    Parallel over images and parts of the map. Shapes: inputs [N, Ci, H, W]; y [N, sum Ci, H, W]. Error: none.
    """

    kind = "concat"
    source = "Szegedy et al., Going Deeper with Convolutions, CVPR 2015 (filter concatenation)"
    requirements = (
        Requirement("rank 4 and float32", lambda w, d: w.outputs[0].rank == 4 and w.outputs[0].dtype == "float32"),
        Requirement("the channel axis", lambda w, d: w.attributes.axis == 1),
        Requirement(
            "an input but the last whose channels are no multiple of a block",
            lambda w, d: any(part.shape[1] % (d.vector_lanes * (1 + d.has_float16)) for part in w.inputs[:-1]),
        ),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One for each blocked layout in which blocks do not line up."""
        for layout in blocked_layouts(device):
            if any(part.shape[1] % block_of(layout, "C") for part in workload.inputs[:-1]):
                yield Variant((), (Format(layout),) * len(workload.inputs), (Format(layout),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Exact."""
        return 0.0

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x0, x1.., y."""
        sources = tuple((i, channel) for i, part in enumerate(workload.inputs) for channel in range(part.shape[1]))
        return select_channels(workload, variant, device, sources)
