"""Every routine on NEON against the float64 reference, on an emulated ARM board: all examples of its kind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TVM_NUM_THREADS", "2")

import tvm

from softneuro_tvm import codegen, registry
from softneuro_tvm.board.compiling import find_compiler
from softneuro_tvm.device import Device, vector_unit
from softneuro_tvm.registry import layer_kind
from softneuro_tvm.routine import Nested
from tests.routines.test_conformance import Machine, cases, verify
from tests.support.board import Server

LANES, REGISTERS, FMA = vector_unit(frozenset({"asimd"}), "aarch64")
TARGET = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}
DEVICE = Device("arm", TARGET, vector_lanes=LANES, vector_registers=REGISTERS, fma=FMA)
VARIANTS = 2
"""Of each routine for each workload."""

NAMES = [name for name, routine in registry.routines().items() if routine.kind != "*"]


@pytest.fixture(scope="module")
def session(request: pytest.FixtureRequest) -> Iterator[Any]:
    """One session for all tests: the server takes one at a time."""
    server: Server = request.getfixturevalue("arm_board")
    remote: Any = server.connect()
    yield remote
    del remote


def compiled(kernels: dict[str, Any], folder: Path) -> Path:
    """A library for the board."""
    module = tvm.IRModule({name: codegen.rename(kernel, name) for name, kernel in kernels.items()})
    with tvm.transform.PassContext(opt_level=3, config=codegen.PASS_CONFIG):
        built = tvm.tirx.build(module, tvm.target.Target(TARGET), pipeline=codegen.TIR_PIPELINE)
    objects, library = folder / "objects", folder / f"{folder.name}.so"
    objects.mkdir()

    def link(output: str, files: list[str], options: list[str] | None = None, **_: Any) -> None:
        command = [*find_compiler("aarch64", "c"), "-shared", "-fPIC", "-o", output, *files, *(options or ())]
        subprocess.run(command, check=True)

    fcompile = tvm.support.cc.cross_compiler(link, output_format="so")
    built.export_library(str(library), fcompile=fcompile, workspace_dir=str(objects))
    return library


@pytest.mark.parametrize("name", NAMES)
def test_on_neon(name: str, session: Any, tmp_path: Path) -> None:
    routine = registry.routine(name)
    found = list(cases(routine, layer_kind(routine.kind), Machine("arm", DEVICE, VARIANTS)))
    emitted = [case.routine.emit(case.workload, case.variant, DEVICE) for case in found]
    emitted = [item.kernel if isinstance(item, Nested) else item for item in emitted]
    kernels = {f"k{i}": item for i, item in enumerate(emitted) if isinstance(item, tvm.tirx.PrimFunc)}
    if not kernels:
        pytest.skip("no kernel of its own on this device")
    library = compiled(kernels, tmp_path)
    session.upload(str(library))
    module, device = session.load_module(library.name), session.cpu()

    def run(kernel: str, arguments: list[np.ndarray], buffers: list[tuple[tuple[int, ...], str]]) -> list[np.ndarray]:
        unwritten = [np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 99, dtype) for shape, dtype in buffers]
        inputs, outputs = ([tvm.runtime.tensor(a, device) for a in arrays] for arrays in (arguments, unwritten))
        module.get_function(kernel)(*inputs, *outputs)
        return [output.numpy() for output in outputs]

    wrong = [verify(found[int(kernel[1:])], lambda *given, kernel=kernel: run(kernel, *given)) for kernel in kernels]
    assert not any(wrong), "\n".join(filter(None, wrong))
