"""Addresses of channel-blocked feature maps (NCHWc, NHWC) and the epilogue that convolution-like kernels share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.activations import Activation
from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, block_of
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers._convolution import Residual, activated

from ._tir import Expr, activate, ceil_div, round_up


@dataclass(frozen=True)
class Blocked:
    """A feature map [N, C, H, W] stored as [N, C / block, H, W, block]; NHWC is the case of one block.

    Args:
        shape: Logical shape.
        layout: ``NCHW<c>c`` or ``NHWC``.
    """

    shape: tuple[int, ...]
    layout: str

    @property
    def block(self) -> int:
        """Channels that lie side by side."""
        return self.shape[1] if self.layout == "NHWC" else block_of(self.layout, "C")

    @property
    def blocks(self) -> int:
        """Number of channel blocks, the last one possibly padded."""
        return ceil_div(self.shape[1], self.block)

    @property
    def row(self) -> int:
        """Elements from one row to the next."""
        return self.shape[3] * self.block

    @property
    def plane(self) -> int:
        """Elements from one channel block to the next."""
        return self.shape[2] * self.row

    def offset(self, n: Expr, channel_block: Expr, y: Expr, x: Expr, lane: Expr = 0) -> Expr:
        """Element index of a position."""
        return (n * self.blocks + channel_block) * self.plane + y * self.row + x * self.block + lane


def blocked_layouts(device: Device) -> tuple[str, ...]:
    """The NCHWc layouts that fill this device's vectors: full width first, then half, but no less than NCHW4c.

    Four lanes have no other: in NCHW4c neighbouring positions lie side by side and are loaded in pairs, so that wider
    blocks would waste more channels for nothing. Float16 is offered in full width only.
    """
    lanes = device.vector_lanes
    if device.element != "float32":
        return (f"NCHW{lanes}c",)
    return tuple(f"NCHW{c}c" for c in dict.fromkeys((lanes, max(4, lanes // 2))))


@dataclass(frozen=True)
class Epilogue:
    """What happens to an accumulator before it is stored. The bias is the accumulator's first value."""

    activation: Activation
    residual: Residual

    @staticmethod
    def of(workload: Workload) -> Epilogue:
        """The epilogue of a conv2d or dense workload."""
        return Epilogue(workload.attributes.activation, workload.attributes.residual)

    @property
    def is_prelu(self) -> bool:
        """True if the kernel takes a slope for each channel."""
        return self.activation.name == "prelu"

    def finish(
        self, value: Expr, lanes: int, residual: Callable[[], Expr] | None, slope: Callable[[], Expr] | None
    ) -> Expr:
        """The value to store.

        Args:
            value: Accumulated vector, bias included.
            lanes: Its elements.
            residual: Loads the vector to add; called only if there is one.
            slope: Loads the PReLU slopes; called only for PReLU.
        """

        def other() -> Expr:
            assert residual is not None
            return residual()

        slopes = slope() if self.is_prelu and slope else None
        return activated(value, self.residual, other, lambda total: activate(total, self.activation, lanes, slopes))


def port_formats(workload: Workload, source: str, target: str) -> tuple[tuple[Format, ...], tuple[Format, ...]]:
    """Formats of a convolution's ports: data in `source`; residual (if any) and output in `target`."""
    residual = (Format(target),) * (len(workload.inputs) - 1)
    return (Format(source), *residual), (Format(target),)


def pad_axis(array: np.ndarray, axis: int, multiple: int) -> np.ndarray:
    """Appends zeros so that an axis becomes a multiple."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, round_up(array.shape[axis], multiple) - array.shape[axis])
    return np.pad(array, widths)


def pack_channel_vectors(
    workload: Workload, weights: Mapping[str, np.ndarray], multiple: int
) -> tuple[np.ndarray, ...]:
    """Bias, and slope for PReLU, padded to a multiple of the channel block."""
    keys = ("bias", "slope") if Epilogue.of(workload).is_prelu else ("bias",)
    return tuple(pad_axis(weights[key].astype("float32"), 0, multiple) for key in keys)


def output_extent(workload: Workload) -> tuple[int, int, int, int]:
    """Batch, output channels, output height and width of a rank-4 workload."""
    n, k, oh, ow = workload.outputs[0].shape
    return n, k, oh, ow


def in_range(value: Expr, extent: int) -> tuple[Any, Any]:
    """Conditions that hold where an index lies inside an axis."""
    return value >= 0, value < extent


__all__ = [
    "Blocked",
    "Epilogue",
    "blocked_layouts",
    "in_range",
    "output_extent",
    "pack_channel_vectors",
    "pad_axis",
    "port_formats",
]
