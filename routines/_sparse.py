"""Products with constant weights of which most are zero, for fully connected layers and 1x1 convolutions.

The weights that are not zero are kept row by row, each with the input channel that it belongs to. Which those are
differs between layers that share a kernel, so it is data; only their number is bounded by the workload.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers._sparsity import SparseAttributes, most_weights
from softneuro_tvm.routine import Parameter, Requirement, Variant

from ._blocked import Epilogue, pack_channel_vectors
from ._products import Place, Sizes
from ._tir import Expr, Kernel, ceil_div, round_up
from ._vectors import transpose
from .dense._tiles import Split, split_evenly

IS_SPARSE = Requirement("at least 60 % zero weights", lambda w, d: isinstance(w.attributes, SparseAttributes))
"""What sparse routines require; layers that are imported from a model are marked by their weights."""

WIDTHS = (4, 8)
"""Vectors of rows in a panel."""

ERROR_BOUND = 2e-5
"""Summation of products in float32."""


def settings(sizes: Sizes, device: Device) -> list[tuple[tuple[str, Parameter], ...]]:
    """Parameters worth measuring: narrow panels, of which the first-level cache holds more, and wider ones."""
    lanes, threads = device.vector_lanes, device.threads
    vectors = ceil_div(sizes.rows, lanes)
    found: list[tuple[tuple[str, Parameter], ...]] = []
    for width in dict.fromkeys(split_evenly(vectors, size)[0][1] for size in WIDTHS):
        panels = sizes.images * ceil_div(vectors, width)
        parts = threads if panels % threads and panels < 4 * threads else 1
        parts = min(parts, ceil_div(sizes.columns, lanes))
        found.append((("lanes", lanes), ("vectors", width), ("parts", parts), ("threads", threads)))
    return found


def panels_of(sizes: Sizes, variant: Variant) -> Split:
    """How the vectors of rows are cut into panels."""
    return split_evenly(ceil_div(sizes.rows, int(variant["lanes"])), int(variant["vectors"]))


def panel_width(sizes: Sizes, variant: Variant) -> int:
    """Rows of the widest panel: elements from one channel of a panel's copy to the next."""
    return panels_of(sizes, variant)[0][1] * int(variant["lanes"])


def workspace_bytes(sizes: Sizes, variant: Variant) -> int:
    """The transposed copy of a panel for each thread."""
    depth = round_up(sizes.depth, int(variant["lanes"]))
    return 4 * int(variant["threads"]) * depth * panel_width(sizes, variant)


def pack(
    workload: Workload, variant: Variant, sizes: Sizes, weight: np.ndarray, weights: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, ...]:
    """Weights [K, C] that are not zero; where their channels lie in a panel; where each row's begin; bias; slope.

    Arrays of values and places are as long as the density admits, and end in zeros that are not read.
    """
    lanes = int(variant["lanes"])
    bound = most_weights(weight.shape, workload.attributes.density)
    rows, channels = np.nonzero(weight)
    values, places = np.zeros(bound, "float32"), np.zeros(bound, "int32")
    values[: rows.size] = weight[rows, channels]
    places[: rows.size] = channels * panel_width(sizes, variant)
    begins = np.searchsorted(rows, np.arange(round_up(sizes.columns, lanes) + 1)).astype("int32")
    return values, places, begins, *pack_channel_vectors(workload, weights, lanes)


class SparseWriter:
    """Writes one kernel.

    A panel of rows is transposed into scratch memory, so that a channel's rows lie side by side. The sums of one output
    channel for all rows of the panel stay in registers while the weights of the channel pass by. The sums of as many
    output channels as a vector has lanes are transposed back. Panels, and `parts` of the output channels, run in
    parallel.

    Args:
        workload: A sparse layer with the epilogue of a convolution.
        variant: Its parameters, see `settings`.
        sizes: The product.
        x_at: Where vectors of channels lie in x.
        y_at: Where they lie in y and in the residual.
    """

    def __init__(self, workload: Workload, variant: Variant, sizes: Sizes, x_at: Place, y_at: Place) -> None:
        self.k, self.workload, self.variant, self.sizes = Kernel(), workload, variant, sizes
        self.x_at, self.y_at = x_at, y_at
        self.lanes, self.parts = int(variant["lanes"]), int(variant["parts"])
        self.panels, self.width = panels_of(sizes, variant), panel_width(sizes, variant)
        self.groups = ceil_div(sizes.columns, self.lanes)
        self.epilogue = Epilogue.of(workload)
        self.buffers: dict[str, Any] = {}

    def function(self) -> Any:
        """The PrimFunc: x, [residual], values, places, begins, bias, [slope], y."""
        k, w, variant = self.k, self.workload, self.variant
        out = physical_shape(w.outputs[0].shape, variant.outputs[0].layout)
        bound = most_weights(w.weight_types["weight"].shape, w.attributes.density)
        channels = self.groups * self.lanes
        shapes: dict[str, tuple[int, ...]] = {"x": physical_shape(w.inputs[0].shape, variant.inputs[0].layout)}
        shapes |= {"residual": out} if self.epilogue.residual else {}
        shapes |= {"values": (bound,), "places": (bound,), "begins": (channels + 1,), "bias": (channels,)}
        shapes |= {"slope": (channels,)} if self.epilogue.is_prelu else {}
        shapes["y"] = out
        number = sum(count for count, _ in self.panels)
        tasks = self.sizes.images * number * self.parts
        with k:
            types = {name: "int32" if name in ("places", "begins") else "float32" for name in shapes}
            declared = {name: T.arg(name, T.buffer(shape, types[name])) for name, shape in shapes.items()}
            for name, buffer in declared.items():
                self.buffers[name] = T.decl_buffer((prod(shapes[name]),), types[name], data=buffer.data)
            with k.loop(tasks, parallel=variant["threads"] > 1 and tasks > 1) as task:
                index = task // self.parts
                place = k.bind(index // number), task % self.parts
                self._choose(place, k.bind(index % number), 0, 0, self.panels)
        return k.function

    def _choose(self, place: tuple[Expr, Expr], panel: Expr, first: int, vector: int, kinds: Split) -> None:
        """Branches on the width of a panel; `first` panels and `vector` vectors precede these kinds."""
        (count, size), rest = kinds[0], kinds[1:]
        self.k.when(
            True if not rest else panel < first + count,
            lambda: self._panel(*place, self.k.bind((vector + (panel - first) * size) * self.lanes), size),
            lambda: self._choose(place, panel, first + count, vector + count * size, rest),
        )

    def _panel(self, image: Expr, part: Expr, row: Expr, size: int) -> None:
        """Some output channels of `size` vectors of rows."""
        k, lanes = self.k, self.lanes
        data = k.scratch(round_up(self.sizes.depth, lanes) * self.width)
        self._gather(data, image, row, size)
        found = k.stack(lanes * size * lanes)
        share = ceil_div(self.groups, self.parts)
        with k.loop(T.min(share, self.groups - part * share) if self.parts > 1 else self.groups) as i:
            group = k.bind(part * share + i)
            with k.loop(lanes) as lane:
                self._sum(data, found, lane, k.bind(group * lanes + lane), size)
            with k.loop(size) as j:
                sums = [k.bind(k.load(found, (lane * size + j) * lanes, lanes)) for lane in range(lanes)]
                for r, value in enumerate(transpose(sums)):
                    at = k.bind(row + j * lanes + r)
                    exists = True if self.sizes.rows % lanes == 0 else at < self.sizes.rows
                    k.when(exists, partial(self._put, image, at, group, value))

    def _gather(self, data: Any, image: Expr, row: Expr, size: int) -> None:
        """Transposes a panel into [channel][row]; rows that do not exist repeat the last one."""
        k, lanes = self.k, self.lanes
        with k.loop(ceil_div(self.sizes.depth, lanes)) as c, k.loop(size) as j:
            loaded = []
            for i in range(lanes):
                at = k.bind(self.x_at(image, T.min(row + j * lanes + i, self.sizes.rows - 1), c))
                loaded.append(k.bind(k.load(self.buffers["x"], at, lanes)))
            for i, value in enumerate(transpose(loaded)):
                k.store(data, (c * lanes + i) * self.width + j * lanes, value, lanes)

    def _sum(self, data: Any, found: Any, lane: Expr, channel: Expr, size: int) -> None:
        """The sums of one output channel."""
        k, lanes, buffers = self.k, self.lanes, self.buffers
        sums = [k.scratch(lanes) for _ in range(size)]
        for total in sums:
            k.store(total, 0, k.splat(0.0, lanes), lanes)
        begin = k.bind(buffers["begins"][channel])
        with k.loop(buffers["begins"][channel + 1] - begin) as n:
            value, at = k.bind(k.splat(buffers["values"][begin + n], lanes)), k.bind(buffers["places"][begin + n])
            for j, total in enumerate(sums):
                k.store(total, 0, k.load(total, 0, lanes) + value * k.load(data, at + j * lanes, lanes), lanes)
        for j, total in enumerate(sums):
            k.store(found, (lane * size + j) * lanes, k.load(total, 0, lanes), lanes)

    def _put(self, image: Expr, row: Expr, vector: Expr, value: Expr) -> None:
        """Epilogue of one vector of channels."""
        k, lanes = self.k, self.lanes
        at, channel = k.bind(self.y_at(image, row, vector)), vector * lanes
        result = self.epilogue.finish(
            value + k.load(self.buffers["bias"], channel, lanes),
            lanes,
            lambda: k.load(self.buffers["residual"], at, lanes),
            lambda: k.load(self.buffers["slope"], channel, lanes),
        )
        k.store(self.buffers["y"], at, result, lanes)
