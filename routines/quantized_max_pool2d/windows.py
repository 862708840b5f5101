"""Max pooling of 8-bit integers, sixteen channels at once."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import Blocked
from .._int8 import LAYOUT
from .._tir import Expr, Kernel

PARALLEL_ELEMENTS = 1 << 15
"""Fewer outputs are computed on one thread: starting the others takes longer."""


class Windows(Routine):
    """Compares a vector of channels of every position of a window.

    Positions outside the map stand for the nearest inside, which the window holds, too. Parallel over rows.

    Shapes: x, y int8 or uint8 in NCHW16c. Error: none.
    """

    kind = "quantized_max_pool2d"
    source = "Goodfellow et al., Deep Learning (MIT Press 2016), 9.3"
    requirements = (
        Requirement("no dilation", lambda w, d: w.attributes.dilation == (1, 1)),
        Requirement("a kernel of at most 64 positions", lambda w, d: prod(w.attributes.kernel) <= 64),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One."""
        port = Format(LAYOUT, workload.inputs[0].dtype)
        yield Variant((), (port,), (port,))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Exact."""
        return 0.0

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, y."""
        attributes, dtype = workload.attributes, workload.inputs[0].dtype
        source, target = (Blocked(t.shape, LAYOUT) for t in (workload.inputs[0], workload.outputs[0]))
        (n, _, height, width), (rows, columns) = source.shape, target.shape[2:]
        lanes, (top, left) = source.block, attributes.padding[:2]

        with Kernel() as k:
            x, y = k.arguments(
                ("x", physical_shape(source.shape, LAYOUT)), ("y", physical_shape(target.shape, LAYOUT)), dtype=dtype
            )
            is_long = device.threads > 1 and prod(target.shape) >= PARALLEL_ELEMENTS
            with k.loop(n * source.blocks * rows, is_long) as line:
                plane, row = k.bind(line // rows), k.bind(line % rows)
                lines = [
                    k.bind(plane * source.plane + _inside(row * attributes.strides[0] - top + r, height) * source.row)
                    for r in range(attributes.kernel[0])
                ]
                with k.loop(columns) as column:
                    at = k.bind(column * attributes.strides[1] - left)
                    places = [k.bind(_inside(at + s, width) * lanes) for s in range(attributes.kernel[1])]
                    largest = [_largest([k.load(x, start + place, lanes) for start in lines]) for place in places]
                    k.store(y, line * target.row + column * lanes, _largest(largest), lanes)
        return k.function


def _inside(index: Expr, extent: int) -> Expr:
    return T.max(T.min(index, extent - 1), 0)


def _largest(vectors: list[Expr]) -> Expr:
    found = vectors[0]
    for vector in vectors[1:]:
        found = T.max(found, vector)
    return found
