"""Routines that compute in float16, too: the same kernels with other elements, where the device has the arithmetic.

A routine of float32 workloads that is marked with `also_in_float16` yields its variants a second time, with float16
ports. What generates their kernels sees a workload of float16 tensors, a device with twice the lanes
(`Device.computing_in`), and helpers that make float16 buffers and numbers (`_tir.computing_in`).

Source: Micikevicius et al., Mixed Precision Training (ICLR 2018) for networks that bear float16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Routine, Variant

from ._tir import computing_in

HALF, SINGLE = "float16", "float32"

ROUNDING = 2.0**-11
"""Largest relative error of rounding to float16."""

LONGEST_SUM = 128
"""Products that are summed in one go; longer sums are made of such parts, so that fewer additions are of large sums."""

R = TypeVar("R", bound=type[Routine])
Error = Callable[[Workload, Variant], float]


def summing(terms: float) -> float:
    """Error bound of sums of so many products of normally distributed numbers, each addition rounded to float16.

    The rounding errors add up like a random walk. The typical error is a third of the bound, more where an activation
    bounds the outputs.
    """
    longest = min(terms, LONGEST_SUM)
    return ROUNDING * (3 + math.sqrt(longest + terms / longest))


def parts_of_sum(terms: int) -> int:
    """Parts in which a float16 kernel makes a sum of so many products."""
    return -(-terms // LONGEST_SUM)


def is_half(variant: Variant) -> bool:
    """Whether a variant computes in float16."""
    return any(port.dtype == HALF for port in (*variant.inputs, *variant.outputs))


def _ports(ports: tuple[Format, ...], source: str, target: str) -> tuple[Format, ...]:
    return tuple(replace(port, dtype=target) if port.dtype == source else port for port in ports)


def _variant(variant: Variant, source: str, target: str) -> Variant:
    """The variant with ports of one element type instead of another."""
    inputs, outputs = _ports(variant.inputs, source, target), _ports(variant.outputs, source, target)
    return replace(variant, inputs=inputs, outputs=outputs)


def also_in_float16(error: Error) -> Callable[[R], R]:
    """Marks a routine whose float32 code also describes float16 kernels.

    Args:
        error: Bound of the float16 kernels' error, like `Routine.error_bound`.
    """

    def mark(routine: R) -> R:
        variants, bound, emit, pack = routine.variants, routine.error_bound, routine.emit, routine.pack
        workspace, in_place = routine.workspace_bytes, routine.in_place_inputs

        @wraps(variants)
        def all_variants(self: Routine, workload: Workload, device: Device) -> Iterable[Variant]:
            if device.element == HALF:
                yield from variants(self, workload, device)
                return
            yield from (variant for variant in variants(self, workload, device) if not is_half(variant))
            if device.has_float16 and {t.dtype for t in (*workload.inputs, *workload.outputs)} == {SINGLE}:
                with computing_in(HALF):
                    found = list(variants(self, workload.computing_in(HALF), device.computing_in(HALF)))
                yield from (_variant(variant, SINGLE, HALF) for variant in found)

        @wraps(bound)
        def either_bound(self: Routine, workload: Workload, variant: Variant) -> float:
            if not is_half(variant):
                return bound(self, workload, variant)
            with computing_in(HALF):
                return error(workload, variant)

        @wraps(emit)
        def either_emit(self: Routine, workload: Workload, variant: Variant, device: Device) -> Any:
            if not is_half(variant):
                return emit(self, workload, variant, device)
            with computing_in(HALF):
                return emit(self, workload.computing_in(HALF), variant, device.computing_in(HALF))

        @wraps(pack)
        def either_pack(
            self: Routine, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]
        ) -> tuple[np.ndarray, ...]:
            if not is_half(variant):
                return pack(self, workload, variant, weights)
            with computing_in(HALF):
                packed = pack(self, workload, variant, weights)
            return tuple(array.astype(HALF) if array.dtype == SINGLE else array for array in packed)

        @wraps(workspace)
        def either_workspace(self: Routine, workload: Workload, variant: Variant) -> int:
            if not is_half(variant):
                return workspace(self, workload, variant)
            with computing_in(HALF):
                return workspace(self, workload, variant) // 2  # it counts four bytes for each element

        @wraps(in_place)
        def either_in_place(self: Routine, workload: Workload, variant: Variant, device: Device) -> tuple[int, ...]:
            return in_place(self, workload, variant, device.computing_in(HALF) if is_half(variant) else device)

        replaced = {
            "variants": all_variants,
            "error_bound": either_bound,
            "emit": either_emit,
            "pack": either_pack,
            "workspace_bytes": either_workspace,
            "in_place_inputs": either_in_place,
        }
        for name, method in replaced.items():
            if getattr(routine, name) is not getattr(Routine, name):  # the defaults hold for any type
                setattr(routine, name, method)
        return routine

    return mark
