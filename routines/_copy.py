"""Copies of consecutive elements, vector by vector; for elements of four or eight bytes."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement

from ._rows import sweep
from ._tir import Expr, Kernel, ceil_div

PARALLEL_BYTES = 512 << 10
"""Smaller tensors are copied by one thread: starting the others takes as long."""

DTYPES = ("float32", "int32", "int64", "float64")
"""Element types that are copied with vectors."""

BLOCKED = ("float32", "float16")
"""Element types of feature maps, which may lie in channel blocks."""

COPYABLE = Requirement(
    "elements of four or eight bytes, one type", lambda w, d: {t.dtype for t in (*w.inputs, *w.outputs)} <= set(DTYPES)
)
"""What layers that only move elements require."""


def copy_lanes(workload: Workload, device: Device) -> int:
    """Elements of the workload's type in one vector register."""
    return max(2, device.vector_lanes // 2) if workload.outputs[0].dtype.endswith("64") else device.vector_lanes


def threads_for(workload: Workload, device: Device) -> int:
    """Threads that copying the workload's output is worth."""
    return device.threads if workload.outputs[0].size_bytes >= PARALLEL_BYTES else 1


def copy_run(
    k: Kernel,
    target: Any,
    at: Expr,
    source: Any,
    start: Expr,
    elements: int,
    lanes: int,
    part: tuple[Expr, int] = (0, 1),
) -> None:
    """Copies consecutive elements; the last vector overlaps the one before.

    Args:
        k: Where to.
        target: Buffer that is written, from element `at` on.
        at: See `target`.
        source: Buffer that is read, from element `start` on.
        start: See `source`.
        elements: How many.
        lanes: Elements of a vector.
        part: (index, number): copy only this part of the run; only for runs of at least number x lanes elements.
    """

    def piece(offset: Expr, size: int) -> None:
        k.store(target, at + offset, k.load(source, start + offset, size), size)

    index, number = part
    if number > 1 and elements >= lanes:
        vectors = ceil_div(elements, lanes)
        share = ceil_div(vectors, number)
        with k.loop(T.min(share, vectors - index * share)) as i:
            piece(k.bind(T.min((index * share + i) * lanes, elements - lanes)), lanes)
        return
    sweep(k, elements, lanes, piece)
