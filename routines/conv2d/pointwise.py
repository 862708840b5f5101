"""1x1 convolution of channel-blocked maps as a matrix product over positions."""

from __future__ import annotations

from collections.abc import Iterable

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Variant

from .._half import also_in_float16
from ._bands import Geometry
from ._blocked_conv import BlockedRoutine, float16_error
from ._settings import Choice, fills_rows, layout_pairs, prefers_channels, settings, tile_vectors
from ._tiles import MIN_CHAINS


@also_in_float16(float16_error)
class Pointwise(BlockedRoutine):
    """1x1 convolution: register tiles of positions x output-channel vectors, any stride.

    Shapes: x NCHW<c>c or NHWC; weight [K group][C block][c][k]; y NCHW<c>c or NHWC. One group, no padding.

    With stride 1 all positions of a map are one axis (``copy=flat``). With a stride the positions read are gathered
    first (``copy=columns``) or tiles lie along output rows (``copy=none``). A band of positions and the weights of one
    step stay in the second-level cache. Maps of a few positions use wide tiles of output channels, and several partial
    sums for each output where there are few of those. Threads share bands, or `parts` of the output channels.

    Error: that of summing C products in float32: 2e-5 for normal data; in float16 see `_half.summing`.

    Source: Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication (TOMS 2008).
    """

    source = "Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication (2008)"
    requirements = (
        Requirement("one group of channels", lambda w, d: w.attributes.groups == 1),
        Requirement("a 1x1 kernel without padding", lambda w, d: Geometry.of(w).is_pointwise),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """Two or three tile shapes; threads over positions and over channels."""
        g = Geometry.of(workload)
        tiles = (MIN_CHAINS, 4, 2) if g.oh * g.ow * 4 < MIN_CHAINS else tile_vectors(device)
        by_channels = prefers_channels(workload, device, tiles[0])
        if g.is_flat:
            copies = ("flat", "flat")
        else:
            wide = fills_rows(g, device)
            copies = ("none", "columns") if wide else ("columns", "none")
        choices = [Choice(vectors, copies[0], by_channels) for vectors in tiles]
        choices.append(Choice(tiles[0], copies[1], by_channels))
        if device.threads > 1:
            choices.append(Choice(tiles[0], copies[0], not by_channels))
        return settings(workload, device, choices, layout_pairs(workload, device))
