"""Fall-through layers: TVM's own lowering of Relax operators, fused, with every kernel scheduled by rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax

from softneuro_tvm.device import Device
from softneuro_tvm.formats import canonical_format
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.relax import weight_names
from softneuro_tvm.routine import Routine, Variant

from .._schedule import schedule_loops


class DefaultRelax(Routine):
    """What TVM's Relax would run, for operators that no layer kind describes.

    Shapes: any; canonical layouts. Error: that of TVM's definitions of the operators.
    Parallel over the fused outer loops of each kernel.
    """

    kind = "relax"
    source = "Lai et al., Relax: Composable Abstractions for End-to-End Dynamic Machine Learning (ASPLOS 2025)"

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One, in canonical layouts."""
        inputs = tuple(canonical_format(tensor) for tensor in workload.inputs)
        yield Variant((), inputs, tuple(canonical_format(tensor) for tensor in workload.outputs))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Of no consequence: there is no reference to compare with."""
        return 1e-4

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Constants in the order of the function's parameters, which is not alphabetical beyond ten."""
        return tuple(np.asarray(weights[name], order="C") for name in weight_names(len(weights)))

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Legalises and fuses the function's operators and schedules the kernels.

        Returns:
            An `IRModule` whose ``main`` holds `call_tir`, tuples, and operators that TVM has no definition for.
        """
        passes = [
            relax.backend.DispatchSampling(),
            relax.backend.DispatchSortScan(),
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FoldConstant(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
        ]
        with tvm.target.Target(dict(device.target)):
            module = tvm.ir.transform.Sequential(passes)(workload.attributes.load())
            for variable, function in list(module.functions.items()):
                if isinstance(function, tvm.tirx.PrimFunc):
                    module.update_func(variable, schedule_loops(function, device))
        return module
