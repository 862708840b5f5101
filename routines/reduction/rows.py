"""Reductions over neighbouring axes."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, block_of, canonical_format, is_padded, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import blocked_layouts
from .._rows import LOWEST, Combine, add, fold, pieces
from .._tir import Expr, Kernel

PARALLEL_BYTES = 256 << 10
"""Smaller tensors are read by one thread: starting the others takes as long."""

COLUMNS = 4
"""Vectors that are accumulated side by side."""

_OPERATIONS: dict[str, tuple[Combine, float]] = {
    "sum": (add, 0.0),
    "mean": (add, 0.0),
    "max": (T.max, LOWEST),
    "min": (T.min, -LOWEST),
    "prod": (lambda a, b: a * b, 1.0),
}
"""Operation on two values, and its neutral element."""


def _is_neighbouring(workload: Workload, device: Device) -> bool:
    axes = workload.attributes.axes
    between = range(axes[0], axes[-1] + 1)
    return all(axis in axes or workload.inputs[0].shape[axis] == 1 for axis in between)


class Rows(Routine):
    """Sees the tensor as [outer, reduced, inner].

    With inner 1 a row is accumulated in vectors and then horizontally; otherwise vectors of inner positions are
    accumulated side by side. Parallel over outer.

    Shapes: x of any rank, canonical layouts; over H and W also from NCHWc and NHWC. Error: that of partial sums.
    """

    kind = "reduction"
    source = "Harris et al., Array Programming with NumPy, Nature 2020 (reductions)"
    requirements = (
        Requirement("float32", lambda w, d: w.inputs[0].dtype == "float32"),
        Requirement("axes next to each other", _is_neighbouring),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """Canonical layouts; for the axes of a map also blocked ones."""
        (source,), (target,), attributes = workload.inputs, workload.outputs, workload.attributes
        yield Variant((), (canonical_format(source),), (canonical_format(target),))
        if source.rank == 4 and attributes.axes == (2, 3):
            for layout in (*blocked_layouts(device), "NHWC"):
                if attributes.keepdims:
                    yield Variant((), (Format(layout),), (Format(layout),))
                elif not is_padded(source.shape, layout):
                    yield Variant((), (Format(layout),), (canonical_format(target),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Grows with the number of terms."""
        (source,), (target,) = workload.inputs, workload.outputs
        return 2e-6 + 6e-8 * (source.size_bytes // target.size_bytes)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, y."""
        (tensor,), layout = workload.inputs, variant.inputs[0].layout
        combine, identity = _OPERATIONS[workload.attributes.operation]
        axes = workload.attributes.axes
        reduced = prod(tensor.shape[axis] for axis in axes)
        outer, inner = prod(tensor.shape[: axes[0]]), prod(tensor.shape[axes[-1] + 1 :])
        if layout == "NHWC":
            outer, inner = tensor.shape[0], tensor.shape[1]
        elif block_of(layout, "C") > 1:
            outer, inner = prod(physical_shape(tensor.shape, layout)[:2]), block_of(layout, "C")
        lanes, scale = device.vector_lanes, 1 / reduced if workload.attributes.operation == "mean" else 1.0
        buffers = [
            (name, physical_shape(t.shape, f.layout))
            for name, t, f in (("x", tensor, variant.inputs[0]), ("y", workload.outputs[0], variant.outputs[0]))
        ]
        with Kernel() as k:
            x, y = k.arguments(*buffers)
            with k.loop(outer, device.threads > 1 and tensor.size_bytes > PARALLEL_BYTES) as index:
                start = k.bind(index * (reduced * inner))

                def column(at: Expr, vectors: int, size: int) -> None:
                    sums = [k.scratch(size) for _ in range(vectors)]
                    for buffer in sums:
                        k.store(buffer, 0, k.splat(identity, size), size)
                    with k.loop(reduced) as r:
                        for j, buffer in enumerate(sums):
                            value = k.load(x, start + r * inner + at + j * size, size)
                            k.store(buffer, 0, combine(k.load(buffer, 0, size), value), size)
                    for j, buffer in enumerate(sums):
                        k.store(y, index * inner + at + j * size, k.load(buffer, 0, size) * k.splat(scale, size), size)

                if inner == 1:
                    total = fold(k, reduced, lanes, identity, combine, lambda at, size: k.load(x, start + at, size))
                    k.store(y, index, total * T.float32(scale), 1)
                else:
                    whole = inner // (COLUMNS * lanes)
                    with k.loop(whole) as group:
                        column(group * (COLUMNS * lanes), COLUMNS, lanes)
                    rest = inner % (COLUMNS * lanes)
                    for offset, size in pieces(rest, lanes):
                        column(inner - rest + offset, 1, size)
        return k.function
