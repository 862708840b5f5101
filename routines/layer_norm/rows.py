"""Layer normalisation row by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import canonical_format
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._rows import add, fold, sweep
from .._tir import Expr, Kernel

PARALLEL_ELEMENTS = 1 << 15
"""Smaller tensors are computed by one thread: starting the others takes as long."""


class Rows(Routine):
    """Three passes over a row that stays in the first-level cache: mean; variance; scaling.

    Parallel over rows. Shapes: x, y of any rank from 1, canonical layouts; gamma, beta [row]. Error: that of the sums.
    """

    kind = "layer_norm"
    source = "Ba, Kiros and Hinton, Layer Normalization, 2016; Chan, Golub and LeVeque 1983 (two-pass variance)"
    requirements = (Requirement("float32", lambda w, d: w.inputs[0].dtype == "float32"),)

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One."""
        port = canonical_format(workload.inputs[0])
        yield Variant((), (port,), (port,))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Grows with the number of additions in a partial sum."""
        return 3e-6 + 2e-9 * prod(workload.weight_types["gamma"].shape)

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Gamma and beta, flat."""
        return tuple(weights[key].astype("float32").reshape(-1) for key in ("gamma", "beta"))

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, gamma, beta, y."""
        shape, lanes = workload.inputs[0].shape, device.vector_lanes
        length = prod(workload.weight_types["gamma"].shape)
        rows = prod(shape) // length
        parallel = device.threads > 1 and rows > 1 and rows * length > PARALLEL_ELEMENTS
        with Kernel() as k:
            x, gamma, beta, y = k.arguments(("x", shape), ("gamma", (length,)), ("beta", (length,)), ("y", shape))
            with k.loop(rows, parallel) as row:
                start = k.bind(row * length)
                scale = T.float32(1 / length)
                mean = k.bind(fold(k, length, lanes, 0.0, add, lambda at, n: k.load(x, start + at, n)) * scale)

                def centred(at: Expr, size: int) -> Expr:
                    return k.bind(k.load(x, start + at, size) - k.splat(mean, size))

                def squared(at: Expr, size: int) -> Expr:
                    value = centred(at, size)
                    return value * value

                variance = fold(k, length, lanes, 0.0, add, squared) * scale
                inverse = k.bind(T.float32(1) / T.sqrt(variance + T.float32(workload.attributes.epsilon)))

                def normalise(at: Expr, size: int) -> None:
                    value = centred(at, size) * k.splat(inverse, size)
                    k.store(y, start + at, value * k.load(gamma, at, size) + k.load(beta, at, size), size)

                sweep(k, length, lanes, normalise)
        return k.function
