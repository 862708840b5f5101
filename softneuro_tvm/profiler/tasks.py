"""What the fork server's children do: prepare a workload's data, compile candidates, measure one candidate."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tvm import tirx

from softneuro_tvm import codegen
from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, pack
from softneuro_tvm.graph import Workload
from softneuro_tvm.profiler.files import input_file, reference_file, weight_file
from softneuro_tvm.profiler.measuring import measure
from softneuro_tvm.profiler.messages import Compiled
from softneuro_tvm.registry import layer_kind
from softneuro_tvm.routine import Candidate, View

__all__ = ["compile_batch", "measure", "prepare"]

logger = logging.getLogger(__name__)

_GARBAGE = 37.0
"""What the padding lanes of blocked inputs hold: a kernel that lets them through is found out."""


def _packed(array: np.ndarray, layout: str) -> np.ndarray:
    """The array in a layout, padding lanes filled with garbage (zeros could hide a kernel that reads them)."""
    packed = pack(array, layout)
    if packed.size != array.size:
        packed[pack(np.ones(array.shape, bool), layout) == 0] = _GARBAGE
    return packed


def prepare(workload: Workload, formats: Sequence[tuple[int, Format]], folder: str) -> None:
    """Saves sample inputs (in each format in which a candidate reads them), sample weights and the float64 reference.

    Args:
        workload: What to prepare.
        formats: Pairs of input position and format.
        folder: Where to; made if absent.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    kind = layer_kind(workload.kind)
    inputs, weights = kind.sample(workload)
    for position, read_as in formats:
        np.save(input_file(folder, position, read_as), _packed(inputs[position], read_as.layout))
    for name, array in weights.items():
        np.save(weight_file(folder, name), array)
    if kind.has_reference:
        widened = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in inputs]
        exact = {k: w.astype(np.float64) if w.dtype.kind == "f" else w for k, w in weights.items()}
        for position, expected in enumerate(kind.reference(workload.attributes, widened, exact)):
            np.save(reference_file(folder, position), expected)


def _pack(candidate: Candidate, folder: Path) -> tuple[np.ndarray, ...]:
    """The sample weights as the kernel reads them."""
    names = candidate.workload.weight_types
    weights = {name: np.load(weight_file(str(folder), name), mmap_mode="r") for name in names}
    packed = candidate.routine.pack(candidate.workload, candidate.variant, weights)
    return tuple(np.asarray(array, order="C") for array in packed)


def _save_weights(arrays: Sequence[np.ndarray], folder: Path) -> tuple[str, ...]:
    """Writes packed weights under names made of their contents: equal arrays of several candidates share a file."""
    paths = []
    for array in arrays:
        state = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
        state.update(array.data if array.size else b"")
        path = folder / f"p-{state.hexdigest()[:20]}.npy"
        if not path.exists():
            partial = folder / f"{path.stem}.{os.getpid()}.npy"  # another worker may write the same one
            np.save(partial, array)
            partial.replace(path)
        paths.append(str(path))
    return tuple(paths)


def _failed(error: Exception) -> Compiled:
    return Compiled("failed", message=f"{type(error).__name__}: {error}"[:2000])


def compile_batch(pickled: Sequence[bytes], device: Device, folder: str, name: str) -> list[Compiled]:
    """Generates and compiles candidates of one workload, the kernels into one library where that succeeds.

    Args:
        pickled: The candidates.
        device: What is compiled for.
        folder: Where the workload was prepared.
        name: Unique name for the library.

    Returns:
        One result for each candidate.

    Raises:
        BuildError: there is no linker.
        OSError: the folder cannot be written.
    """
    codegen.linker()
    results: list[Compiled] = []
    kernels: dict[int, Any] = {}
    for index, data in enumerate(pickled):
        try:
            candidate: Candidate = pickle.loads(data)
            emitted = candidate.routine.emit(candidate.workload, candidate.variant, device)
            if isinstance(emitted, View):
                results.append(Compiled("view"))
                continue
            packed = _pack(candidate, Path(folder))
            bound = candidate.routine.error_bound(candidate.workload, candidate.variant)
        except Exception as error:  # whatever a routine raises is its candidate's result
            results.append(_failed(error))
            continue
        form: Literal["kernel", "relax"] = "kernel" if isinstance(emitted, tirx.PrimFunc) else "relax"
        symbol = f"k{index}" if form == "kernel" else "main"
        library = str(Path(folder) / f"{name}-{index}.so")
        files, size = _save_weights(packed, Path(folder)), sum(array.nbytes for array in packed)
        results.append(Compiled(form, library, symbol, files, size, bound))
        kernels[index] = emitted
    _compile(results, kernels, device, str(Path(folder) / f"{name}.so"))
    return results


def _compile(results: list[Compiled], emitted: Mapping[int, Any], device: Device, shared: str) -> None:
    """Compiles kernels together, or, if that fails, one by one, so that only a bad one fails; and Relax modules.

    Args:
        results: Changed: kernels are in the shared library if that succeeds; what fails says so.
        emitted: What the routines emitted, by index in `results`.
        device: What is compiled for.
        shared: Path of the shared library.
    """
    together = [index for index in emitted if results[index].form == "kernel"]
    singly = [index for index in emitted if index not in together]
    if len(together) > 1:
        try:
            functions = [(results[index].symbol, emitted[index]) for index in together]
            codegen.compile_candidates(functions, device.target, shared)
        except OSError:
            raise
        except Exception as error:  # TVM's errors have no common base; the single compilations tell whose it is
            logger.debug("compiling %d kernels together failed: %s", len(together), error)
            singly += together
        else:
            for index in together:
                results[index] = replace(results[index], library=shared)
    else:
        singly += together
    for index in singly:
        result = results[index]
        try:
            if result.form == "relax":
                codegen.compile_relax(emitted[index], device.target, result.library)
            else:
                codegen.compile_candidates([(result.symbol, emitted[index])], device.target, result.library)
        except OSError:
            raise
        except Exception as error:  # as above
            results[index] = _failed(error)
