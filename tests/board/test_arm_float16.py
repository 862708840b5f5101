"""Float16 routines on an emulated ARM board that has the arithmetic, against the float64 references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

from softneuro_tvm import registry
from softneuro_tvm.devices import load_device
from softneuro_tvm.registry import layer_kind
from tests.board.test_arm_routines import compiled
from tests.board.test_arm_routines import session as session
from tests.routines.test_conformance import verify
from tests.routines.test_float16 import NAMES, cases

DEVICE = load_device("cortex-a76", 1)


@pytest.mark.parametrize("name", NAMES)
def test_on_neon(name: str, session: Any, tmp_path: Path) -> None:
    found = cases(name, layer_kind(registry.routine(name).kind), DEVICE, 1)
    emitted = [case.routine.emit(case.workload, case.variant, DEVICE) for case in found]
    kernels = {f"k{i}": item for i, item in enumerate(emitted) if isinstance(item, tvm.tirx.PrimFunc)}
    if not kernels:
        pytest.skip("no kernel of its own")
    library = compiled(kernels, tmp_path)
    session.upload(str(library))
    module, device = session.load_module(library.name), session.cpu()

    def run(kernel: str, arguments: list[np.ndarray], buffers: list[tuple[tuple[int, ...], str]]) -> list[np.ndarray]:
        unwritten = [np.full(shape, np.nan, dtype) for shape, dtype in buffers]
        inputs, outputs = ([tvm.runtime.tensor(a, device) for a in arrays] for arrays in (arguments, unwritten))
        module.get_function(kernel)(*inputs, *outputs)
        return [output.numpy() for output in outputs]

    wrong = [verify(found[int(kernel[1:])], lambda *given, kernel=kernel: run(kernel, *given)) for kernel in kernels]
    assert not any(wrong), "\n".join(filter(None, wrong))
