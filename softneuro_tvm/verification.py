"""Compares a built module with the reference runtime: onnxruntime on the original model, or plain TVM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.candidates import adapter_workload
from softneuro_tvm.covers import planned_layers
from softneuro_tvm.errors import VerificationError
from softneuro_tvm.graph import Graph
from softneuro_tvm.pipeline import Model
from softneuro_tvm.plain import PlainModule, onnx_model
from softneuro_tvm.plan import Plan
from softneuro_tvm.reference import sample_inputs
from softneuro_tvm.registry import routine
from softneuro_tvm.remote.module import RemoteModule
from softneuro_tvm.runtime import Module


@dataclass(frozen=True)
class Agreement:
    """How a module compares with the reference.

    Args:
        reference: Name of the reference runtime.
        error: max|y - reference| / max|reference|, the worst of all outputs.
        tolerance: Largest error that the chosen routines' declared bounds allow.
    """

    reference: str
    error: float
    tolerance: float


def reference_outputs(model: Model, inputs: Mapping[str, np.ndarray]) -> tuple[str, list[np.ndarray]]:
    """The model's outputs by onnxruntime, or by plain TVM if the model did not come from ONNX.

    Returns:
        Name of the runtime, and the outputs.
    """
    proto = onnx_model(model.source, model.input_shapes)
    if proto is None:
        return "plain TVM", PlainModule(model.source, model.input_shapes).run(inputs)
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return "onnxruntime", list(session.run(None, dict(inputs)))


def tolerance(plan: Plan, graph: Graph) -> float:
    """What the declared bounds of what was chosen add up to: errors of independent layers add in quadrature."""
    bounds = [
        routine(choice.routine).error_bound(graph.workload(layer), choice.variant)
        for layer, choice in planned_layers(graph, plan)
    ]
    for adapter in plan.adapters:
        workload = adapter_workload(graph.tensors[adapter.tensor], adapter.source, adapter.target)
        bounds.append(routine(adapter.routine).error_bound(workload, adapter.variant))
    return max(1e-5, 4 * float(np.sqrt(np.sum(np.square(bounds)))))


def relative_error(outputs: list[np.ndarray], references: list[np.ndarray]) -> float:
    """max|y - reference| / max|reference| over all outputs; infinite where shapes or non-finite values differ."""
    worst = 0.0
    for y, expected in zip(outputs, references, strict=True):
        if y.shape != expected.shape or not np.array_equal(np.isfinite(y), np.isfinite(expected)):
            return float("inf")
        finite = np.isfinite(expected)
        if finite.any():
            a, b = y[finite].astype(np.float64), expected[finite].astype(np.float64)
            worst = max(worst, float(np.abs(a - b).max() / max(1e-30, np.abs(b).max())))
    return worst


def _remedy(plan: Plan) -> str:
    """What to do about a module that differs too much."""
    if any(port.dtype == "float16" for choice in plan.layers for port in choice.variant.outputs):
        return "float16 is too inexact for this model: bound the error with --error-limit, or use --precision float32"
    return "please report the model, or leave routines out with a plan of your own"


def verify(model: Model, plan: Plan, module: Module | RemoteModule) -> Agreement:
    """Runs module and reference on the same random inputs.

    Raises:
        VerificationError: they disagree by more than the chosen routines' bounds allow.
    """
    inputs = sample_inputs(model.graph)
    name, expected = reference_outputs(model, inputs)
    outputs: Any = module.run(module.tensors([], inputs))
    found = Agreement(name, relative_error(outputs, expected), tolerance(plan, model.graph))
    if not found.error <= found.tolerance:
        raise VerificationError(
            f"the built module differs from {name} by {found.error:.2e} (allowed: {found.tolerance:.2e}); "
            f"{_remedy(plan)}"
        )
    return found
