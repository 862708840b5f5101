"""Slices along channels of blocked layouts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import blocked_layouts
from .._half import ROUNDING, also_in_float16
from ..gather_channels._gather import select_channels


def _whole_but_channels(workload: Workload, device: Device) -> bool:
    shape, parts = workload.inputs[0].shape, workload.attributes.index
    return len(shape) == 4 and all(len(range(*parts[axis].indices(shape[axis]))) == shape[axis] for axis in (0, 2, 3))


@also_in_float16(lambda workload, variant: ROUNDING)
class Channels(Routine):
    """A slice of the channels in NCHWc, at any channel and with any step, as a selection of channels.

    Parallel over images and parts of the map. Shapes: x [N, C, H, W]; y [N, K, H, W]. Error: none.
    """

    kind = "slice"
    source = "Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, ECCV 2018 (split)"
    requirements = (
        Requirement("float32", lambda w, d: w.outputs[0].dtype == "float32"),
        Requirement("rank 4 and all of the batch and the map", _whole_but_channels),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One for each blocked layout."""
        for layout in blocked_layouts(device):
            yield Variant((), (Format(layout),), (Format(layout),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Exact."""
        return 0.0

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, y."""
        channels = range(workload.inputs[0].shape[1])[workload.attributes.index[1]]
        return select_channels(workload, variant, device, tuple((0, channel) for channel in channels))
