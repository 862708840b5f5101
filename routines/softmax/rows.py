"""Softmax along the last axis."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import canonical_format
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._rows import LOWEST, add, fold, sweep
from .._tir import Expr, Kernel, exp

PARALLEL_ELEMENTS = 1 << 14
"""Smaller tensors are computed by one thread: starting the others takes as long."""


class Rows(Routine):
    """Three passes over a row that stays in the first-level cache: maximum; exponentials and their sum; scaling.

    Parallel over rows. Shapes: x, y of any rank from 1, canonical layouts.
    Error: 4e-7 of the exponential, and that of the sum.
    """

    kind = "softmax"
    source = "Milakov and Gimelshein, Online Normalizer Calculation for Softmax, 2018 (the three-pass baseline)"
    requirements = (
        Requirement(
            "the last axis of more than one element",
            lambda w, d: prod(w.inputs[0].shape[w.attributes.axis + 1 :]) == 1,
        ),
        Requirement("float32", lambda w, d: w.inputs[0].dtype == "float32"),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One."""
        port = canonical_format(workload.inputs[0])
        yield Variant((), (port,), (port,))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Grows with the number of additions in a partial sum."""
        return 2e-6 + 2e-9 * prod(workload.inputs[0].shape[workload.attributes.axis :])

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, y."""
        shape, lanes = workload.inputs[0].shape, device.vector_lanes
        length, rows = shape[workload.attributes.axis], prod(shape[: workload.attributes.axis])
        parallel = device.threads > 1 and rows > 1 and rows * length > PARALLEL_ELEMENTS
        with Kernel() as k:
            x, y = k.arguments(("x", shape), ("y", shape))
            with k.loop(rows, parallel) as row:
                start = k.bind(row * length)
                largest = fold(k, length, lanes, LOWEST, T.max, lambda at, size: k.load(x, start + at, size))

                def exponential(at: Expr, size: int) -> Expr:
                    value = exp(k.load(x, start + at, size) - k.splat(largest, size), size)
                    k.store(y, start + at, value, size)
                    return value

                total = fold(k, length, lanes, 0.0, add, exponential)
                scale = k.bind(T.float32(1) / total)
                last = k.bind(k.load(y, start + length - lanes, lanes)) if length > lanes else None
                # the last vector overlaps the one before, so it is read before that one is scaled

                def scaled(at: Expr, size: int) -> None:
                    is_last = last is not None and isinstance(at, int)
                    value = last if is_last else k.load(y, start + at, size)
                    k.store(y, start + at, value * k.splat(scale, size), size)

                sweep(k, length, lanes, scaled)
        return k.function
