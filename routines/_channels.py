"""How the channels of a feature map split into vectors: one block of NCHWc, or a run of channels of NHWC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.formats import block_of

from ._tir import Expr, Kernel, ceil_div, round_up


@dataclass(frozen=True)
class ChannelVectors:
    """Channel vectors of a feature map; the last one of NHWC overlaps the one before, that of NCHWc may be padded.

    Args:
        channels: Number of channels.
        lanes: Channels of a vector.
        blocked: True for NCHWc, whose blocks are the vectors.
    """

    channels: int
    lanes: int
    blocked: bool

    @staticmethod
    def of(channels: int, layout: str, widest: int) -> ChannelVectors:
        """The vectors of a layout; those of NHWC have at most `widest` lanes, a power of two."""
        if layout != "NHWC":
            return ChannelVectors(channels, block_of(layout, "C"), True)
        while widest > channels:
            widest //= 2
        return ChannelVectors(channels, widest, False)

    @property
    def number(self) -> int:
        """Vectors of one position."""
        return ceil_div(self.channels, self.lanes)

    def gather(self, array: np.ndarray) -> np.ndarray:
        """Splits the last axis, of `channels`, into [number, lanes]; zeros in padded lanes."""
        if self.blocked:
            padding = round_up(self.channels, self.lanes) - self.channels
            padded = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, padding)])
            return padded.reshape(*array.shape[:-1], self.number, self.lanes)
        starts = [min(i * self.lanes, self.channels - self.lanes) for i in range(self.number)]
        return array[..., np.add.outer(starts, np.arange(self.lanes))]

    @contextmanager
    def rows(self, k: Kernel, batch: int, height: int, parallel: bool) -> Iterator[tuple[Expr, Expr]]:
        """Emits the loop over rows of all planes; gives the plane (batch, and block of NCHWc) and the row in it."""
        with k.loop(batch * (self.number if self.blocked else 1) * height, parallel) as row:
            yield row // height, row % height

    @contextmanager
    def each(self, k: Kernel, plane: Expr) -> Iterator[tuple[Expr, Expr]]:
        """Emits the loop over the vectors of a plane's position; gives index and offset from the position's start."""
        if self.blocked:
            yield plane % self.number, 0
            return
        with k.loop(self.number) as index:
            even = self.channels % self.lanes == 0
            yield index, index * self.lanes if even else T.min(index * self.lanes, self.channels - self.lanes)
