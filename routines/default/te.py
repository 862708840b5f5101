"""Any layer with a TE definition, scheduled by rule: correct everywhere, fast where that is easy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tvm import te

from softneuro_tvm.device import Device
from softneuro_tvm.formats import canonical_format
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind
from softneuro_tvm.registry import layer_kind
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._schedule import schedule_loops


def _has_definition(workload: Workload, device: Device) -> bool:
    return type(layer_kind(workload.kind)).compute is not LayerKind.compute


class DefaultTE(Routine):
    """The layer kind's own TE definition.

    Shapes: any; canonical layouts. Error: that of plain float32 sums, which grows with their length.
    Parallel over the fused outer loops of each stage.
    """

    kind = "*"
    source = "Chen et al., TVM: An Automated End-to-End Optimizing Compiler for Deep Learning (OSDI 2018)"
    fallback = True
    requirements = (Requirement("a layer kind with a TE definition", _has_definition),)

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One, in canonical layouts."""
        inputs = tuple(canonical_format(tensor) for tensor in workload.inputs)
        yield Variant((), inputs, tuple(canonical_format(tensor) for tensor in workload.outputs))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Covers float32 sums of some thousand terms, and TVM's approximations of transcendental functions."""
        return 2e-5

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Inlines, fuses, vectorises and spreads what the definition computes."""
        inputs = [te.placeholder(t.shape, t.dtype, f"x{index}") for index, t in enumerate(workload.inputs)]
        weights = {key: te.placeholder(t.shape, t.dtype, key) for key, t in workload.weights}
        outputs = layer_kind(workload.kind).compute(workload, inputs, weights)
        function = te.create_prim_func([*inputs, *weights.values(), *outputs])
        return schedule_loops(function.with_attr("global_symbol", "main"), device)
