"""Checks and times candidates, in a forked child that may crash or hang."""

from __future__ import annotations

import math
import mmap
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
import tvm_ffi

from softneuro_tvm.formats import physical_shape, unpack
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.memory import aligned
from softneuro_tvm.profiler.messages import Measured, MeasureRequest
from softneuro_tvm.profiler.sentinel import is_slow, run_sentinel, sentinel_arguments, steady
from softneuro_tvm.profiler.timing import time_calls


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """max|found - expected| / max|expected|; infinite if either is not finite where the other is.

    8-bit integers are quantised numbers: they are compared with the largest one of their type, so that one step weighs
    the same whatever the sample's outputs are.
    """
    with np.errstate(invalid="ignore"):
        off = np.subtract(found, expected, dtype=np.float64)
    if not np.isfinite(np.abs(off, out=off).max(initial=0.0)):
        finite = np.isfinite(expected)
        if not np.array_equal(np.isfinite(found), finite):
            return float("inf")
        off, expected = off[finite], expected[finite]
    if not off.size:
        return 0.0
    largest = max(float(expected.max()), -float(expected.min()), 1e-30)
    if found.dtype in (np.int8, np.uint8):
        largest = max(largest, np.iinfo(found.dtype).max)
    return float(off.max() / largest)


def _tensor(path: str) -> Any:
    """A TVM tensor (64-byte aligned) with the array of a file."""
    return tvm.runtime.tensor(np.load(path, mmap_mode="r"))


class _Pool:
    """Memory for copies of weights, in huge pages: touching it anew for each candidate would take longer than timing.

    Args:
        size_bytes: That it has at first; it grows where that is too little.
    """

    def __init__(self, size_bytes: int = 0) -> None:
        self._wanted_bytes, self._size_bytes = size_bytes, 0
        self._memory: mmap.mmap | None = None

    def memory(self, size_bytes: int) -> Any:
        """A buffer of at least so many bytes; whoever asks next gets the same."""
        if size_bytes > self._size_bytes:
            self._size_bytes = max(size_bytes, self._wanted_bytes)
            self._memory = mmap.mmap(-1, self._size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                self._memory.madvise(mmap.MADV_HUGEPAGE)
        return self._memory


def _copies(tensors: Sequence[Any], count: int, pool: _Pool) -> list[tuple[Any, ...]]:
    """Copies of tensors."""
    arrays = [tensor.numpy() for tensor in tensors]
    sizes = [aligned(array.nbytes) for array in arrays]
    if not (total := count * sum(sizes)):
        return [tuple(tensors)] * count
    memory = pool.memory(total)
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
            error = relative_error(unpack(found, written_as.layout, tensor.shape), expected)
            if np.isinf(error) and found.dtype.kind == "f" and np.isfinite(expected).all():
                return error, f"output {position} holds values that are not finite, or were never written"
            worst = max(worst, error)
    bound = request.compiled.error_bound
    return worst, f"its relative error {worst:.2e} exceeds its bound {bound:.2e}" if worst > bound else ""


def measure_each(requests: Sequence[MeasureRequest], deadline_s: float = math.inf) -> Iterator[Measured]:
    """Runs, checks and times candidates one after the other.

    What a faulty candidate does to the process may make those after it fail: then they should be measured by
    themselves.

    Args:
        requests: What to measure.
        deadline_s: By `time.monotonic`: after the first candidate, none is begun later.

    Yields:
        What each comes to, in order.
    """
    pool = _Pool(max(request.copies * request.compiled.weight_bytes for request in requests))
    best_s: dict[Any, float] = {}
    lost_s = 0.0
    for number, request in enumerate(requests):
        if number and time.monotonic() > deadline_s:
            return
        ports = (request.inputs, request.outputs)
        left_s = max(0.0, request.sentinel.patience_s - lost_s)
        found = _measure(
            replace(
                request,
                best_s=min(request.best_s, best_s.get(ports, math.inf)),
                sentinel=replace(request.sentinel, patience_s=min(request.options.patience_s, left_s)),
            ),
            pool,
        )
        lost_s += found.lost_s
        if found.measurement.ok:
            best_s[ports] = min(found.measurement.median_s, best_s.get(ports, math.inf))
        yield found


def _measure(request: MeasureRequest, pool: _Pool) -> Measured:
    """Measures a candidate; samples that were taken while the machine was slow are discarded."""
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
    copies = [weights, *_copies(weights, request.copies - 1, pool)]
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
