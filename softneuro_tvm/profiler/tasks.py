"""What the fork server's children do: prepare a workload's data, compile candidates, measure them here or there."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from softneuro_tvm import codegen
from softneuro_tvm.device import Device
from softneuro_tvm.errors import RoutineError
from softneuro_tvm.formats import Format, pack, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.linking import linker
from softneuro_tvm.object_cache import ObjectCache
from softneuro_tvm.profiler.files import input_file, reference_file, weight_file
from softneuro_tvm.profiler.generating import Argument, Generated, generate, generate_pickled, toolchain
from softneuro_tvm.profiler.measuring import measure_each
from softneuro_tvm.profiler.measuring_there import measure_on_board
from softneuro_tvm.profiler.messages import Compiled
from softneuro_tvm.profiler.sentinel import SENTINEL_STEPS, multiply_adds
from softneuro_tvm.registry import layer_kind
from softneuro_tvm.remote.driver import byte_functions
from softneuro_tvm.remote.networks import run_networks
from softneuro_tvm.remote.probing import examine, probe
from softneuro_tvm.routine import Candidate

__all__ = [
    "compile_batch",
    "compile_sentinel",
    "examine",
    "generate_pickled",
    "measure_each",
    "measure_on_board",
    "prepare",
    "probe",
    "run_networks",
    "toolchain",
]

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
        packed = _packed(inputs[position], read_as.layout).astype(read_as.dtype)
        np.save(input_file(folder, position, read_as), packed)
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


def compile_batch(
    pickled: Sequence[bytes],
    device: Device,
    folders: Sequence[str],
    library: str,
    objects: str | None = None,
    elsewhere: bool = False,
    generated: Sequence[bytes] | None = None,
) -> list[Compiled]:
    """Generates candidates, compiles those that the object cache lacks, and links them into a library.

    Args:
        pickled: The candidates.
        device: What is compiled for.
        folders: Where the workload of each candidate was prepared.
        library: Path of the library to write, ending in ``.so``: it holds all kernels.
        objects: Folder of the object cache, see `ObjectCache`.
        elsewhere: Whether the kernels are measured on a board: then the libraries hold `rotation` functions, too.
        generated: Pickled `Generated` of each candidate, from another machine; the object cache keeps the objects.

    Returns:
        One result for each candidate.

    Raises:
        BuildError: there is no linker.
        OSError: a folder cannot be written.
    """
    link = linker(device.machine)
    cache, path = ObjectCache(objects), Path(library)
    path.parent.mkdir(exist_ok=True)
    results: list[Compiled] = []
    files: dict[str, Path] = {}
    for index, data in enumerate(pickled):
        try:
            candidate: Candidate = pickle.loads(data)
            made = pickle.loads(generated[index]) if generated else generate(candidate, device, cache, elsewhere)
            if made.form in ("view", "failed"):
                results.append(Compiled(made.form, message=made.message))
                continue
            packed = _pack(candidate, Path(folders[index]))
            bound = candidate.routine.error_bound(candidate.workload, candidate.variant)
            size_bytes = sum(array.nbytes for array in packed)
            common = (_save_weights(packed, Path(folders[index])), size_bytes, bound)
            if made.form == "kernel":
                _check_arguments(candidate, made.arguments, packed)
                for symbol, (key, code) in made.objects.items():
                    if generated:
                        cache.put(key, code)
                    files[symbol] = _write_object(code, path.with_name(f"{path.stem}-{symbol}.o"))
                results.append(Compiled("kernel", str(path), made.symbol, *common))
            else:
                module = made.module or candidate.routine.emit(candidate.workload, candidate.variant, device)
                own = path.with_name(f"{path.stem}-{index}.so")
                codegen.compile_relax(module, device.target, own)
                results.append(Compiled("relax", str(own), "main", *common))
        except OSError:
            raise
        except Exception as error:  # whatever a routine or TVM raises is its candidate's result
            results.append(Compiled("failed", message=Generated.failure(error).message))
    if files:
        partial = path.with_name(f"{path.stem}.{os.getpid()}.so")
        link(str(partial), list(map(str, files.values())))
        partial.replace(path)
        for file in files.values():
            file.unlink()
    return results


def _write_object(data: bytes, path: Path) -> Path:
    path.write_bytes(data)
    return path


def _check_arguments(candidate: Candidate, declared: Sequence[Argument], packed: Sequence[np.ndarray]) -> None:
    """Compares what a kernel takes with what it is going to be called with: kernels do not check that themselves.

    Raises:
        RoutineError: they differ.
    """
    workload, variant = candidate.workload, candidate.variant
    ports = zip((*workload.inputs, *workload.outputs), (*variant.inputs, *variant.outputs), strict=True)
    tensors = [(physical_shape(tensor.shape, port.layout), port.dtype) for tensor, port in ports]
    inputs, outputs = tensors[: len(workload.inputs)], tensors[len(workload.inputs) :]
    given = [*inputs, *((array.shape, str(array.dtype)) for array in packed), *outputs]
    if list(declared) != given:
        raise RoutineError(
            f"routine {candidate.routine.name!r} emitted a kernel of {list(declared)}, but its inputs, packed weights "
            f"and outputs are {given}; make `emit`, `pack` and the variant's formats agree"
        )


def compile_sentinel(device: Device, path: str, elsewhere: bool = False) -> None:
    """Compiles the reference kernel into a library.

    Args:
        device: What is compiled for.
        path: The library to write.
        elsewhere: Whether it is for a board: then the library holds `byte_functions`, too.

    Raises:
        BuildError: there is no linker.
        OSError: the library cannot be written.
    """
    functions = [codegen.rename(multiply_adds(device, SENTINEL_STEPS), "sentinel")]
    functions += byte_functions() if elsewhere else []
    files = []
    for index, function in enumerate(functions):
        files.append(str(_write_object(codegen.compile_object(function, device.target), Path(f"{path}.{index}.o"))))
    linker(device.machine)(path, files)
