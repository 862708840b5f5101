"""What routines that go wrong have in common."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, ClassVar

from softneuro_tvm.routines._tir import Kernel
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import canonical_format
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Routine, Variant

ENVIRONMENT_VARIABLE = "SOFTNEURO_TVM_SOAK_FAULTS"
"""Names of the faults that are asked for, with commas between them."""


class Fault(Routine):
    """Calls a C function that does not return, instead of computing anything."""

    source = "none"
    function: ClassVar[str]
    arguments: ClassVar[tuple[int, ...]] = ()

    def refusal(self, workload: Workload, device: Device) -> str | None:
        """Applies where `ENVIRONMENT_VARIABLE` asks for it."""
        asked = os.environ.get(ENVIRONMENT_VARIABLE, "").split(",")
        return None if self.name.rpartition("/")[2] in asked else f"needs its name in {ENVIRONMENT_VARIABLE}"

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One, in the formats of models."""
        yield Variant((), tuple(map(canonical_format, workload.inputs)), tuple(map(canonical_format, workload.outputs)))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """None is wanted: nothing is computed."""
        return 0.0

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """The kernel."""
        weights = sorted(workload.weights)
        tensors = [*workload.inputs, *(tensor for _, tensor in weights), *workload.outputs]
        with Kernel() as k:
            k.arguments(*((f"t{i}", tensor.shape) for i, tensor in enumerate(tensors)))
            T.evaluate(tirx.call_extern("int32", self.function, *self.arguments))
        return k.function
