"""Selections of channels, for every layout: behind `gather_channels`, and concatenations and slices off the blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Variant

from .._blocked import Blocked
from .._copy import copy_lanes, copy_run, threads_for
from .._tir import Expr, Kernel, ceil_div
from .._vectors import shuffle

Sources = tuple[tuple[int, int], ...]
"""For each output channel the input's number and the channel in that input."""


@dataclass(frozen=True)
class Run:
    """Output channels first, first + step.. that come from channels source, source + stride.. of one input."""

    tensor: int
    first: int
    source: int
    step: int
    stride: int
    count: int


def runs_of(sources: Sources) -> Iterator[Run]:
    """Splits a selection into arithmetic progressions, longest first from the left."""
    for tensor in sorted({tensor for tensor, _ in sources}):
        wanted = [(j, channel) for j, (t, channel) in enumerate(sources) if t == tensor]
        while wanted:
            (first, source), (next_first, next_source) = wanted[0], wanted[min(1, len(wanted) - 1)]
            step, stride, count = next_first - first, next_source - source, 1
            while count < len(wanted) and wanted[count] == (first + count * step, source + count * stride):
                count += 1
            yield Run(tensor, first, source, step, stride, count)
            wanted = wanted[count:]


def select_channels(workload: Workload, variant: Variant, device: Device, sources: Sources) -> Any:
    """Generates the kernel x0, x1.., y of a selection; all ports have the same layout, of rank 4.

    Args:
        workload: Inputs [N, Ci, H, W], output [N, K, H, W].
        variant: Gives the layout.
        device: Gives lanes and threads.
        sources: The selection.
    """
    layout = variant.outputs[0].layout
    maps = [Blocked(tensor.shape, layout) for tensor in (*workload.inputs, *workload.outputs)]
    names = [*(f"x{i}" for i in range(len(workload.inputs))), "y"]
    shapes = [physical_shape(m.shape, layout) for m in maps]
    n, positions = maps[-1].shape[0], maps[-1].shape[2] * maps[-1].shape[3]
    threads = threads_for(workload, device)
    parts = 1 if n >= threads or layout == "NCHW" else threads
    share = ceil_div(positions, parts)
    with Kernel() as k:
        buffers = k.arguments(*zip(names, shapes, strict=True), dtype=workload.outputs[0].dtype)
        selection = _Selection(k, sources, maps, buffers, copy_lanes(workload, device))
        with k.loop(n * parts, threads > 1) as task:
            image, first = task // parts, k.bind(task % parts * share)
            number = T.min(share, positions - first) if parts > 1 else positions
            if layout == "NCHW":
                for run in runs_of(sources):
                    selection.copy_planes(run, image)
            elif layout == "NHWC":
                with k.loop(number) as position:
                    selection.gather_position(image, first + position)
            else:
                for block in range(maps[-1].blocks):
                    selection.gather_block(block, image, first, number)
    return k.function


@dataclass
class _Selection:
    """Writes a selection's loops; the last map and buffer are the output's."""

    k: Kernel
    sources: Sources
    maps: Sequence[Blocked]
    buffers: Sequence[Any]
    lanes: int

    def copy_planes(self, run: Run, image: Expr) -> None:
        """NCHW: whole planes, neighbouring ones at once."""
        k, source, target = self.k, self.maps[run.tensor], self.maps[-1]
        plane = target.shape[2] * target.shape[3]
        joined = run.step == run.stride == 1
        with k.loop(1 if joined else run.count) as i:
            at = k.bind((image * target.shape[1] + run.first + i * run.step) * plane)
            start = k.bind((image * source.shape[1] + run.source + i * run.stride) * plane)
            elements = plane * (run.count if joined else 1)
            copy_run(k, self.buffers[-1], at, self.buffers[run.tensor], start, elements, self.lanes)

    def gather_block(self, block: int, image: Expr, first: Expr, positions: Expr) -> None:
        """NCHWc: some positions of one output block; padding lanes repeat the block's first channel."""
        k, y = self.k, self.maps[-1]
        c = y.block
        wanted = list(self.sources[block * c : (block + 1) * c])
        wanted += wanted[:1] * (c - len(wanted))
        needed = list(dict.fromkeys((tensor, channel // c) for tensor, channel in wanted))
        picked = [(needed.index((tensor, channel // c)), channel % c) for tensor, channel in wanted]
        starts = [k.bind(self.maps[tensor].offset(image, b, 0, 0) + first * c) for tensor, b in needed]
        at = k.bind(y.offset(image, block, 0, 0) + first * c)
        with k.loop(positions) as position:
            vectors = [
                k.bind(k.load(self.buffers[tensor], start + position * c, c))
                for (tensor, _), start in zip(needed, starts, strict=True)
            ]
            k.store(self.buffers[-1], at + position * c, _combine(vectors, picked), c)

    def gather_position(self, image: Expr, position: Expr) -> None:
        """NHWC: all channels of one position; the last vector overlaps the one before."""
        k, total = self.k, len(self.sources)
        plane = self.maps[-1].shape[2] * self.maps[-1].shape[3]
        *starts, at = (k.bind((image * plane + position) * m.shape[1]) for m in self.maps)
        lanes = self.lanes
        while lanes > min(m.shape[1] for m in self.maps):
            lanes //= 2

        def window(tensor: int, channel: int) -> int:
            return min(channel // lanes * lanes, self.maps[tensor].shape[1] - lanes)

        for begin in dict.fromkeys(min(b, total - lanes) for b in range(0, total, lanes)):
            wanted = self.sources[begin : begin + lanes]
            needed = list(dict.fromkeys((tensor, window(tensor, channel)) for tensor, channel in wanted))
            picked = [(needed.index((t, window(t, channel))), channel - window(t, channel)) for t, channel in wanted]
            vectors = [k.bind(k.load(self.buffers[tensor], starts[tensor] + first, lanes)) for tensor, first in needed]
            k.store(self.buffers[-1], at + begin, _combine(vectors, picked), lanes)


def _combine(vectors: Sequence[Expr], picked: Sequence[tuple[int, int]]) -> Expr:
    """The vector of the elements (vector, lane), as many as a vector has, by one two-vector shuffle after the other."""
    lanes, own = len(picked), list(range(len(picked)))
    result = vectors[0]
    if len(vectors) == 1:
        return result if [lane for _, lane in picked] == own else shuffle([result], lanes, [lane for _, lane in picked])
    placed = [lane for _, lane in picked]  # where `result` holds the elements of the first vector
    for number in range(1, len(vectors)):
        order = [lanes + lane if v == number else old for (v, lane), old in zip(picked, placed, strict=True)]
        result, placed = shuffle([result, vectors[number]], lanes, order), own
    return result
