"""Kernels compiled for the emulated ARM board, run there and compared with the references."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

from softneuro_tvm import codegen
from softneuro_tvm.board.compiling import find_compiler
from softneuro_tvm.device import Device
from softneuro_tvm.routine import Nested
from tests.routines.test_conformance import Case, verify


def compiled(kernels: dict[str, Any], device: Device, folder: Path) -> Path:
    """A library for the board."""
    module = tvm.IRModule({name: codegen.rename(kernel, name) for name, kernel in kernels.items()})
    with tvm.transform.PassContext(opt_level=3, config=codegen.PASS_CONFIG):
        built = tvm.tirx.build(module, tvm.target.Target(dict(device.target)), pipeline=codegen.TIR_PIPELINE)
    objects, library = folder / "objects", folder / f"{folder.name}.so"
    objects.mkdir()

    def link(output: str, files: list[str], options: list[str] | None = None, **_: Any) -> None:
        command = [*find_compiler("aarch64", "c"), "-shared", "-fPIC", "-o", output, *files, *(options or ())]
        subprocess.run(command, check=True)

    fcompile = tvm.support.cc.cross_compiler(link, output_format="so")
    built.export_library(str(library), fcompile=fcompile, workspace_dir=str(objects))
    return library


def runners(
    kernels: Sequence[Any], device: Device, session: Any, folder: Path
) -> list[Callable[..., list[np.ndarray]]]:
    """What runs each kernel on the board: takes arguments and the shapes and types of outputs, gives these."""
    library = compiled({f"k{i}": kernel for i, kernel in enumerate(kernels)}, device, folder)
    session.upload(str(library))
    module, cpu = session.load_module(library.name), session.cpu()

    def run(kernel: str, arguments: list[np.ndarray], buffers: list[tuple[tuple[int, ...], str]]) -> list[np.ndarray]:
        unwritten = [np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 99, dtype) for shape, dtype in buffers]
        inputs, outputs = ([tvm.runtime.tensor(a, cpu) for a in arrays] for arrays in (arguments, unwritten))
        module.get_function(kernel)(*inputs, *outputs)
        return [output.numpy() for output in outputs]

    return [partial(run, f"k{i}") for i in range(len(kernels))]


def own_kernels(found: Sequence[Case], device: Device) -> list[tuple[Case, Any]]:
    """The cases that have a kernel of their own, with it; the test is skipped if none has."""
    emitted = [(case, case.routine.emit(case.workload, case.variant, device)) for case in found]
    emitted = [(case, item.kernel if isinstance(item, Nested) else item) for case, item in emitted]
    own = [(case, item) for case, item in emitted if isinstance(item, tvm.tirx.PrimFunc)]
    if not own:
        pytest.skip("no kernel of its own on this device")
    return own


def check(kernels: Sequence[tuple[Case, Any]], device: Device, session: Any, folder: Path) -> None:
    """Compares the outputs of each case's kernel on the board with the reference."""
    ran = zip(kernels, runners([kernel for _, kernel in kernels], device, session, folder), strict=True)
    wrong = [verify(case, run) for (case, _), run in ran]
    assert not any(wrong), "\n".join(filter(None, wrong))
