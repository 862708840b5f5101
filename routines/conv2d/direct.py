"""Direct convolution of channel-blocked maps with any kernel, stride, dilation and padding."""

from __future__ import annotations

from collections.abc import Iterable

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Variant

from .._half import also_in_float16
from ._bands import Geometry
from ._blocked_conv import BlockedRoutine, float16_error
from ._settings import Choice, fills_rows, layout_pairs, prefers_channels, settings, tile_vectors


@also_in_float16(float16_error)
class Direct(BlockedRoutine):
    """Direct convolution: register tiles of output positions x output-channel vectors.

    Shapes: x NCHW<c>c or NHWC; weight [K group][C block][R][S][c][k]; y NCHW<c>c or NHWC. One group of channels.

    The output is computed in bands of rows; the band's input is copied with its padding (``copy=rows``), or once for
    each kernel column so that tiles run across row ends (``copy=columns``), or read in place (``copy=none``). Weights
    of a group of `vectors` vectors are read in `steps` that fit the second-level cache, and prefetched where they are
    many. Threads share bands, or `parts` of the output channels.

    Error: that of summing C * R * S products in float32: 2e-5 for normal data; in float16 see `_half.summing`.

    Source: Georganas et al., Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures (SC 2018);
    Cho and Brand, MEC: Memory-efficient Convolution for Deep Neural Network (ICML 2017) for ``copy=columns``.
    """

    source = "Georganas et al., Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures (2018)"
    requirements = (
        Requirement("one group of channels", lambda w, d: w.attributes.groups == 1),
        Requirement("a kernel larger than 1x1, or padding", lambda w, d: not Geometry.of(w).is_pointwise),
        Requirement("more than 4 input channels", lambda w, d: w.inputs[0].shape[1] > 4),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """Two or three tile shapes, the copy that fits the map first, threads over rows and over channels."""
        g = Geometry.of(workload)
        in_rows = "rows" if any(g.padding) else "none"
        wide = fills_rows(g, device)
        first, second = (in_rows, "columns") if wide else ("columns", in_rows)
        by_channels = prefers_channels(workload, device, 2)
        choices = [Choice(vectors, first, by_channels) for vectors in tile_vectors(device)[:2]]
        choices.append(Choice(2, second, by_channels))
        if device.threads > 1:
            choices.append(Choice(2, first, not by_channels))
        return settings(workload, device, choices, layout_pairs(workload, device))
