"""Checks and times one candidate, in a forked child that may crash or hang."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
import tvm_ffi

from softneuro_tvm.formats import physical_shape, unpack
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler.messages import MeasureRequest
from softneuro_tvm.profiler.timing import time_calls


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """max|found - expected| / max|expected|; infinite if either is not finite where the other is."""
    y, reference = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(reference)
    if not np.array_equal(np.isfinite(y), finite):
        return float("inf")
    if not finite.any():
        return 0.0
    return float(np.abs(y[finite] - reference[finite]).max() / max(1e-30, np.abs(reference[finite]).max()))


def _tensor(path: str) -> Any:
    """A TVM tensor (64-byte aligned) with the array of a file."""
    return tvm.runtime.tensor(np.load(path, mmap_mode="r"))


def _unwritten(request: MeasureRequest) -> list[Any]:
    """Output tensors filled with NaN: what a kernel does not write shows."""
    tensors = []
    for tensor, written_as in request.outputs:
        blank = np.zeros(physical_shape(tensor.shape, written_as.layout), written_as.dtype)
        if blank.dtype.kind == "f":
            blank.fill(np.nan)
        tensors.append(tvm.runtime.tensor(blank))
    return tensors


def _check(request: MeasureRequest, outputs: Sequence[Any]) -> tuple[float, str]:
    """Error of the outputs, and what is wrong with them ("" if nothing is)."""
    worst = 0.0
    for position, ((tensor, written_as), output) in enumerate(zip(request.outputs, outputs, strict=True)):
        found = output.numpy()
        shape = physical_shape(tensor.shape, written_as.layout)
        # what TVM's operators select by value, such as NonMaxSuppression, may be less than the type says
        fits = found.shape == shape or (request.compiled.form == "relax" and found.ndim == len(shape))
        if not fits or str(found.dtype) != written_as.dtype:
            wanted = f"{written_as.dtype}{list(shape)}"
            return float("inf"), f"output {position} is {found.dtype}{list(found.shape)}, not {wanted}"
        if request.references:
            expected = np.load(request.references[position], mmap_mode="r")
            if found.dtype.kind == "f" and np.isfinite(expected).all() and not np.isfinite(found).all():
                return float("inf"), f"output {position} holds values that are not finite, or were never written"
            worst = max(worst, relative_error(unpack(found, written_as.layout, tensor.shape), expected))
    bound = request.compiled.error_bound
    return worst, f"its relative error {worst:.2e} exceeds its bound {bound:.2e}" if worst > bound else ""


def measure(request: MeasureRequest) -> Measurement:
    """Runs, checks and times a candidate."""
    os.environ["TVM_NUM_THREADS"] = str(request.threads)  # read when the first parallel loop runs in this process
    library = tvm.runtime.load_module(request.compiled.library)
    inputs = tuple(map(_tensor, request.inputs))
    weights = tuple(map(_tensor, request.compiled.weights))
    if request.compiled.form == "relax":
        function = tvm.relax.VirtualMachine(library, tvm.cpu())["main"]
        returned = function(*inputs, *weights)
        results: Sequence[Any] = [returned] if len(request.outputs) == 1 and hasattr(returned, "numpy") else returned
        trailing: tuple[Any, ...] = ()
    else:
        function = library[request.compiled.symbol]
        results = trailing = tuple(_unwritten(request))
        function(*inputs, *weights, *trailing)
    error, wrong = _check(request, results)
    if wrong:
        return Measurement("wrong", (), error, wrong)
    copies = [weights, *(tuple(map(_tensor, request.compiled.weights)) for _ in range(request.copies - 1))]
    arguments = [(*inputs, *copy, *trailing) for copy in copies]
    empty = tvm_ffi.get_global_func("testing.nop")
    return Measurement("ok", time_calls(function, arguments, empty, request.best_s, request.options), error)
