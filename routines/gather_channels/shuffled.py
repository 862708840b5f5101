"""Channel selection by permutations of vector registers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import blocked_layouts
from .._half import ROUNDING, also_in_float16
from ._gather import select_channels


@also_in_float16(lambda workload, variant: ROUNDING)
class Shuffled(Routine):
    """Loads the vectors that hold a vector's channels and picks its lanes with two-vector shuffles.

    NCHW copies planes instead, one loop for each arithmetic progression of channels. Parallel over images and parts of
    the map; NCHW over images.

    Shapes: inputs [N, Ci, H, W]; y [N, K, H, W]; NCHWc, NHWC or NCHW. Error: none.
    """

    kind = "gather_channels"
    source = "Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, ECCV 2018"
    requirements = (Requirement("float32", lambda w, d: w.outputs[0].dtype == "float32"),)

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One for each layout."""
        for layout in (*blocked_layouts(device), "NCHW", "NHWC"):
            yield Variant((), (Format(layout),) * len(workload.inputs), (Format(layout),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Exact."""
        return 0.0

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x0, x1.., y."""
        return select_channels(workload, variant, device, workload.attributes.sources)
