"""Depthwise convolution of 8-bit integers: one filter for each channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers._quantized import one_unit
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import Blocked
from .._int8 import BLOCK, LAYOUT, Dot, converted_zero, corrected, declare, formats, narrowed, pin, requantized
from .._threads import serial_seconds, thread_counts
from .._tir import Expr, Kernel, all_of, ceil_div, round_up
from .._vectors import shuffle
from .._window import Columns, Window, sweep


class Depthwise(Routine):
    """A register tile of one row x `columns` output positions x 16 channels, straight from the input.

    Rows of the input under the kernel are interleaved in registers, so that an instruction that sums groups of
    neighbouring elements (see `direct`) sums 2 or 4 rows of each channel. What is interleaved once feeds every output
    that it reaches. In the padding rows are replaced while the kernel runs, columns when it is generated.
    Parallel over the output rows of all channel blocks.

    Shapes: x [N, C, H, W]; weight [C, 1, R, S], packed as [C / 16, groups of rows, S, 16, rows of a group];
    y [N, C, OH, OW]; NCHW16c. Error: none in the sums; one unit where scaled sums lie halfway between integers.
    """

    kind = "quantized_conv2d"
    source = "Zhang, Lo and Lu, High Performance Depthwise and Pointwise Convolutions on Mobile Devices, AAAI 2020"
    requirements = (
        Requirement(
            "one input channel and one output channel for each group",
            lambda w, d: w.attributes.groups == w.inputs[0].shape[1] == w.outputs[0].shape[1] > 1,
        ),
        Requirement("a kernel of at most 16 x 16", lambda w, d: max(w.weight_types["weight"].shape[2:]) <= 16),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One width of tiles."""
        dot, kernel = Dot.of(device), workload.weight_types["weight"].shape[2:]
        counts = thread_counts(device, serial_seconds(workload, prod(kernel), device))
        columns = 8 if dot.lanes == BLOCK and workload.attributes.strides[1] == 1 else 4
        for threads in counts:
            params = (("dot", dot.name), ("lanes", dot.lanes), ("columns", columns), ("threads", threads))
            yield Variant(params, *formats(workload, LAYOUT, LAYOUT))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """One unit."""
        return one_unit(workload.attributes)

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights with the rows of a group innermost, corrected bias, multiplier."""
        dot, weight = Dot.chosen(variant), weights["weight"][:, 0]
        c, r, s = weight.shape
        channels, rows = round_up(c, BLOCK), round_up(r, dot.group)
        padded = np.zeros((channels, rows, s), "int8")
        padded[:c, :r] = weight
        split = padded.reshape(channels // BLOCK, BLOCK, rows // dot.group, dot.group, s)
        ordered = split.transpose(0, 2, 4, 1, 3).astype(_weight_type(dot))
        rest = [(0, channels - c)]
        multiplier = weights["multiplier"].astype("float32")
        return ordered.ravel(), np.pad(corrected(workload, dot, weights), rest), np.pad(multiplier, rest)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, weight, bias, multiplier, y."""
        return _Writer(workload, variant).function()


def _weight_type(dot: Dot) -> str:
    """Weights are few: they are stored as the instruction takes them."""
    return "int16" if dot.element == "int16" else "int8"


def _zipped(rows: list[Expr], dtype: str) -> list[Expr]:
    """Interleaves 2 or 4 vectors of 16 bytes by instructions that zip two: each gives a half of what they make."""
    runs, vectors = 1, [[row] for row in rows]
    while len(vectors) > 1:
        half = BLOCK // 2
        halves = [
            [(first + lane // 2) * runs + i + lane % 2 * BLOCK for lane in range(BLOCK // runs) for i in range(runs)]
            for first in (0, half // runs)
        ]
        vectors = [
            [pin(shuffle(pair, BLOCK, order), dtype, BLOCK) for pair in zip(a, b, strict=True) for order in halves]
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        runs *= 2
    return vectors[0]


class _Writer:
    """Writes one kernel."""

    def __init__(self, workload: Workload, variant: Variant) -> None:
        self.k, self.workload, self.dot = Kernel(), workload, Dot.chosen(variant)
        self.columns, self.parallel = int(variant["columns"]), variant["threads"] > 1
        self.x, self.y = (Blocked(t.shape, LAYOUT) for t in (workload.inputs[0], workload.outputs[0]))
        _, _, self.r, self.s = workload.weight_types["weight"].shape
        self.window = Window.of(workload, (self.r, self.s))
        self.groups, self.vectors = ceil_div(self.r, self.dot.group), BLOCK // self.dot.lanes
        self.buffers: dict[str, Any] = {}

    def function(self) -> Any:
        """The PrimFunc."""
        k, (x, y), channels = self.k, (self.x, self.y), self.y.blocks * BLOCK
        with k:
            self.buffers = declare(
                {
                    "x": (physical_shape(x.shape, LAYOUT), self.workload.inputs[0].dtype),
                    "weight": ((channels * self.groups * self.s * self.dot.group,), _weight_type(self.dot)),
                    "bias": ((channels,), "int32"),
                    "multiplier": ((channels,), "float32"),
                    "y": (physical_shape(y.shape, LAYOUT), self.workload.outputs[0].dtype),
                }
            )
            with k.loop(y.shape[0] * y.blocks * y.shape[2], self.parallel) as row:
                self._row(row // y.shape[2], row % y.shape[2])
        return k.function

    def _row(self, plane: Expr, y: Expr) -> None:
        """One row of the output."""
        k, lanes = self.k, self.dot.lanes
        block = k.bind(plane % self.y.blocks)
        for columns, x0 in sweep(k, self.window, self.columns):
            sums = [k.scratch(BLOCK, "int32") for _ in range(columns.width)]
            for total in sums:
                for j in range(0, BLOCK, lanes):
                    k.store(total, j, k.load(self.buffers["bias"], block * BLOCK + j, lanes), lanes)
            left = k.bind(self.window.left(x0))
            for group in range(self.groups):
                self._accumulate(sums, columns, left, (plane, block, y), group)
            factors = [k.load(self.buffers["multiplier"], block * BLOCK + j, lanes) for j in range(0, BLOCK, lanes)]
            target, attributes = k.bind(self.y.offset(0, plane, y, x0)), self.workload.attributes
            for i, total in enumerate(sums):
                found = [
                    requantized(k.load(total, j * lanes, lanes), factor, attributes, lanes)
                    for j, factor in enumerate(factors)
                ]
                k.store(self.buffers["y"], target + i * BLOCK, narrowed(found, lanes, attributes.output_dtype), BLOCK)

    def _accumulate(
        self, sums: list[Any], columns: Columns, left: Expr, place: tuple[Expr, Expr, Expr], group: int
    ) -> None:
        """The products of a group of kernel rows."""
        k, dot, (plane, block, y) = self.k, self.dot, place
        lanes, wide = dot.lanes, dot.lanes * dot.group
        (sy, sx), (dy, dx) = self.window.strides, self.window.dilation
        taps = k.bind((block * self.groups + group) * (self.s * BLOCK * dot.group))
        lines = [y * sy + ((group * dot.group + i) * dy - self.window.padding[0]) for i in range(dot.group)]
        fed: dict[int, list[tuple[int, int]]] = {}
        for i in range(columns.width):
            for s in range(self.s):
                fed.setdefault(i * sx + s * dx, []).append((i, s))
        for column, reached in sorted(fed.items()):
            vectors = self._column(lines, plane, left, columns, column, group)
            for i, s in reached:
                for j, vector in enumerate(vectors):
                    weight = k.load(self.buffers["weight"], taps + (s * self.vectors + j) * wide, wide)
                    total = dot.add(k.load(sums[i], j * lanes, lanes), vector, weight)
                    k.store(sums[i], j * lanes, total, lanes)

    def _column(
        self, lines: list[Expr], plane: Expr, left: Expr, columns: Columns, column: int, group: int
    ) -> list[Expr]:
        """The rows of a group at one column, interleaved, a vector for each vector of sums."""
        k, dot, dtype = self.k, self.dot, self.workload.inputs[0].dtype
        wide = dot.lanes * dot.group
        first = self.window.left(columns.first) + column
        if not columns.inside and not 0 <= first < self.x.shape[3]:
            outside = k.splat(tirx.const(converted_zero(self.workload, dot), dot.element), wide)
            return [outside] * self.vectors
        rows = [
            self._line(line, plane, left + column) for i, line in enumerate(lines) if group * dot.group + i < self.r
        ]
        rows += rows[:1] * (dot.group - len(rows))  # their weights are 0
        if dot.by_lane:
            zipped = _zipped([pin(dot.converted(row, dtype, BLOCK), dot.element, BLOCK) for row in rows], dot.element)
            parts = [(vector, lane) for vector in zipped for lane in range(0, BLOCK, wide)]
            return [vector if wide == BLOCK else shuffle([vector], BLOCK, range(at, at + wide)) for vector, at in parts]
        found = []
        for j in range(self.vectors):
            order = [i * BLOCK + j * dot.lanes + lane for lane in range(dot.lanes) for i in range(dot.group)]
            found.append(pin(dot.converted(shuffle(rows, BLOCK, order), dtype, wide), dot.element, wide))
        return found

    def _line(self, line: Expr, plane: Expr, column: Expr) -> Expr:
        """The channels of one position; what stands for 0 if the row lies in the padding."""
        k, height, dtype = self.k, self.x.shape[2], self.workload.inputs[0].dtype
        last = (self.y.shape[2] - 1) * self.window.strides[0] + (self.r - 1) * self.window.dilation[0]
        above, below = self.window.padding[0] > 0, last - self.window.padding[0] >= height
        if not above and not below:
            return k.bind(k.load(self.buffers["x"], self.x.offset(0, plane, line, column), BLOCK))
        inside = all_of(line >= 0 if above else True, line < height if below else True)
        near = T.min(T.max(line, 0), height - 1)
        # pinned: inside a selection, TVM takes the condition for granted, and reads the row that is not there
        loaded = pin(k.load(self.buffers["x"], self.x.offset(0, plane, near, column), BLOCK), dtype, BLOCK)
        zero_point = k.splat(tirx.const(self.workload.attributes.input_zero_point, dtype), BLOCK)
        return pin(T.Select(inside, loaded, zero_point), dtype, BLOCK)
