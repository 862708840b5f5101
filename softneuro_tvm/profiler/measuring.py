"""Checks and times one candidate, in a forked child that may crash or hang."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
import tvm_ffi

from softneuro_tvm.formats import physical_shape, unpack
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler.messages import Measured, MeasureRequest
from softneuro_tvm.profiler.sentinel import is_slow, run_sentinel, sentinel_arguments, steady
from softneuro_tvm.profiler.timing import time_calls

_ALIGNMENT = 64


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """max|found - expected| / max|expected|; infinite if either is not finite where the other is.

    8-bit integers are quantised numbers: they are compared with the largest one of their type, so that one step weighs
    the same whatever the sample's outputs are.
    """
    y, reference = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(reference)
    if not np.array_equal(np.isfinite(y), finite):
        return float("inf")
    if not finite.any():
        return 0.0
    largest = np.abs(reference[finite]).max()
    if found.dtype in (np.int8, np.uint8):
        largest = max(largest, np.iinfo(found.dtype).max)
    return float(np.abs(y[finite] - reference[finite]).max() / max(1e-30, largest))


def _tensor(path: str) -> Any:
    """A TVM tensor (64-byte aligned) with the array of a file."""
    return tvm.runtime.tensor(np.load(path, mmap_mode="r"))


def _copies(tensors: Sequence[Any], count: int) -> list[tuple[Any, ...]]:
    """Copies of tensors, in huge pages: touching so many small ones would take longer than the measurement."""
    arrays = [tensor.numpy() for tensor in tensors]
    sizes = [-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays]
    if not (total := count * sum(sizes)):
        return [tuple(tensors)] * count
    memory = mmap.mmap(-1, total, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    copies, offset = [], 0
    for _ in range(count):
        copy = []
        for array, size in zip(arrays, sizes, strict=True):
            place = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
            place[...] = array
            copy.append(tvm.runtime.from_dlpack(place))
            offset += size
        copies.append(tuple(copy))
    return copies


def _unwritten(request: MeasureRequest) -> list[Any]:
    """Output tensors filled with NaN: what a kernel does not write shows."""
    tensors = []
    for tensor, written_as in request.outputs:
        blank = np.zeros(physical_shape(tensor.shape, written_as.layout), written_as.dtype)
        if blank.dtype.kind == "f":
            blank.fill(np.nan)
        tensors.append(tvm.runtime.tensor(blank))
    return tensors


def check(request: MeasureRequest, outputs: Sequence[Any]) -> tuple[float, str]:
    """Error of the outputs, wherever they are, and what is wrong with them ("" if nothing is)."""
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


def measure(request: MeasureRequest) -> Measured:
    """Runs, checks and times a candidate; samples that were taken while the machine was slow are discarded."""
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
    error, wrong = check(request, results)
    if wrong:
        return Measured(Measurement("wrong", (), error, wrong))
    copies = [weights, *_copies(weights, request.copies - 1)]
    arguments = [(*inputs, *copy, *trailing) for copy in copies]
    empty = tvm_ffi.get_global_func("testing.nop")
    sentinel = request.sentinel
    reference = tvm.runtime.load_module(sentinel.library)["sentinel"]
    operands = [tvm.runtime.tensor(array) for array in sentinel_arguments(sentinel.device)]
    samples, sentinel_s, lost_s = steady(
        lambda: time_calls(function, arguments, empty, request.best_s, request.options),
        lambda: run_sentinel(reference, operands),
        sentinel.usual_s,
        sentinel.patience_s,
    )
    slowdown = sentinel_s / sentinel.usual_s if is_slow(sentinel_s, sentinel.usual_s) else 1.0
    return Measured(Measurement("ok", samples, error, slowdown=slowdown), sentinel_s, lost_s)
