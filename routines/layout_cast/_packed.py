"""What layouts have in common: channel blocks around positions, and the order of elements."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from softneuro_tvm.formats import block_of, canonical_layout, parse_layout, physical_shape

from .._tir import Expr, ceil_div


@dataclass(frozen=True)
class Packed:
    """A tensor seen as [N, ceil(C / block), P, block], where P joins all other axes.

    Args:
        batch: N.
        channels: C.
        positions: P.
        block: 1 for NCHW, c for NCHWc, C for NHWC; likewise for other ranks.
    """

    batch: int
    channels: int
    positions: int
    block: int

    @staticmethod
    def of(shape: tuple[int, ...], layout: str) -> Packed | None:
        """The view of a layout, or None if it orders axes in another way."""
        canonical = canonical_layout(len(shape))
        if not canonical.startswith("NC"):
            return None
        block = block_of(layout, "C")
        known = {f"N{canonical[2:]}C": shape[1], f"{canonical}{block}c": block, canonical: 1}
        return Packed(shape[0], shape[1], prod(shape[2:]), known[layout]) if layout in known else None

    @property
    def last(self) -> bool:
        """True if all channels of a position lie side by side, without padding."""
        return self.block == self.channels

    @property
    def stored(self) -> int:
        """Channels that the buffer holds, padding included."""
        return ceil_div(self.channels, self.block) * self.block

    def offset(self, n: Expr, channel: Expr, position: Expr) -> Expr:
        """Element index."""
        if self.last:
            return (n * self.positions + position) * self.channels + channel
        if self.block == 1:
            return (n * self.channels + channel) * self.positions + position
        block = n * (self.stored // self.block) + channel // self.block
        return (block * self.positions + position) * self.block + channel % self.block


def element_order(shape: tuple[int, ...], layout: str) -> list[tuple[str, int, int]]:
    """In which order a layout holds elements: (axis, step, extent) from the outermost loop, in the fewest loops.

    Equal orders mean equal buffers.
    """
    loops: list[tuple[str, int, int]] = []
    for (axis, block), extent in zip(parse_layout(layout), physical_shape(shape, layout), strict=True):
        if extent == 1:
            continue
        step = 1 if block else block_of(layout, axis)
        if loops and loops[-1][:2] == (axis, step * extent):
            extent *= loops.pop()[2]
        loops.append((axis, step, extent))
    return loops
