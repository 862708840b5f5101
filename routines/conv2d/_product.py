"""A 1x1 convolution inside a kernel that computes more: its register tiles over given positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.formats import Format
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Variant

from .._blocked import Epilogue
from .._lanes import Rows, rows_together, tallest_tile
from .._tir import Expr, Kernel, ceil_div
from ._bands import Geometry, reduction_block
from ._blocked_conv import CHEAP, pack_weights
from ._tiles import UNROLL, Split, Tile, nest, split_evenly


@dataclass(frozen=True)
class Store:
    """Where a tile's results go.

    Args:
        buffer: The buffer.
        part: Lanes that lie side by side; divides the lanes of a vector.
        at: ``at(i, j, lane)``: offset of position i of the tile, vector j of the group, from lane `lane`, and the
            condition under which that exists.
        residual: Added before the activation, at the same offset.
    """

    buffer: Any
    part: int
    at: Callable[[Expr, int, int], tuple[Expr, Expr]]
    residual: Any = None


@dataclass(frozen=True, eq=False)
class Product:
    """The tiles of one 1x1 convolution.

    Args:
        workload: The convolution.
        block: Channels that lie side by side in what it reads.
        lanes: Of a vector.
        vectors: Most output-channel vectors of a tile.
        registers: Vector registers of the device.
    """

    workload: Workload
    block: int
    lanes: int
    vectors: int
    registers: int

    @property
    def step(self) -> int:
        """Channels of one step of the outer reduction loop."""
        return reduction_block(Geometry.of(self.workload).c, self.block, self.lanes)

    @property
    def steps(self) -> int:
        """Number of these steps."""
        return ceil_div(Geometry.of(self.workload).c, self.step)

    @property
    def groups(self) -> Split:
        """How the output-channel vectors are cut into tiles."""
        return split_evenly(ceil_div(Geometry.of(self.workload).k, self.lanes), self.vectors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Flat shapes of the packed weights."""
        channels = sum(count * size for count, size in self.groups) * self.lanes
        shapes: dict[str, tuple[int, ...]] = {"weight": (channels * self.steps * self.step,), "bias": (channels,)}
        return shapes | ({"slope": (channels,)} if Epilogue.of(self.workload).is_prelu else {})

    def pack(self, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights as [group of vectors][channel][K of the group]; bias; slope."""
        layout = "NCHW" if self.block == 1 else f"NCHW{self.block}c"
        params = (("lanes", self.lanes), ("vectors", self.vectors))
        return pack_weights(self.workload, Variant(params, (Format(layout),), ()), weights)

    def widest(self, vectors: int) -> int:
        """Positions of a tile of so many vectors."""
        return tallest_tile(vectors, self.registers, rows_together(self.lanes, self.registers))

    def tile(
        self,
        k: Kernel,
        buffers: Mapping[str, Any],
        source: Any,
        start: Expr,
        plane: int,
        group: tuple[int, Expr],
        width: int,
        store: Store,
    ) -> None:
        """Emits one tile: `width` consecutive positions, one group of output-channel vectors.

        Args:
            k: The kernel.
            buffers: Packed weights by name.
            source: What it reads.
            start: Offset there of the first channel of the first position.
            plane: Elements there from one channel block to the next.
            group: Number of vectors, known now, and index of the first one.
            width: Number of positions.
            store: What to do with the results.
        """
        (vectors, first), lanes = group, self.lanes
        step, per, taps = self.step, vectors * lanes, self.steps * self.step
        tile = Tile(k, width, vectors, lanes)
        tile.start(lambda i, j, lane: k.load(buffers["bias"], (first + j) * lanes, lanes), lanes)
        weight, inner = k.bind(first * (lanes * taps)), self.block // step
        unroll = UNROLL if step % UNROLL == 0 else step
        with nest(self.steps) as (b,):
            at = k.bind(start + (b * plane if inner == 1 else b // inner * plane + b % inner * step))
            row = k.bind(weight + b * (step * per))
            with nest(step // unroll) as (q,):
                offsets = [at + q * unroll + i * self.block for i in range(width)]
                rows = Rows(source, offsets, 1, rows_together(lanes, self.registers))
                tile.accumulate(rows, buffers["weight"], row + q * (unroll * per), per, unroll)
        tile.combine()
        self._finish(k, buffers, tile, group, store)

    def _finish(self, k: Kernel, buffers: Mapping[str, Any], tile: Tile, group: tuple[int, Expr], store: Store) -> None:
        """Residual, activation and store; costly activations in a loop, so that their code is not repeated."""
        epilogue, part = Epilogue.of(self.workload), store.part
        pieces = [(j, lane) for j in range(tile.vectors) for lane in range(0, self.lanes, part)]

        def put(i: Expr, j: int, lane: int, value: Callable[[Expr], Expr], finish: bool) -> None:
            at, exists = store.at(i, j, lane)
            channel = (group[1] + j) * self.lanes + lane

            def write() -> None:
                result = value(at)
                if finish:
                    result = epilogue.finish(
                        result,
                        part,
                        lambda: k.load(store.residual, at, part),
                        lambda: k.load(buffers["slope"], channel, part),
                    )
                k.store(store.buffer, at, result, part)

            k.when(exists, write)

        is_cheap = epilogue.activation.name in CHEAP
        for i in range(tile.width):
            for j, lane in pieces:
                put(i, j, lane, lambda at, i=i, j=j, lane=lane: tile.value(i, j, lane, part), is_cheap)  # type: ignore[misc]
        if not is_cheap:
            with nest(tile.width) as (i,):
                for j, lane in pieces:
                    put(i, j, lane, lambda at: k.load(store.buffer, at, part), True)
