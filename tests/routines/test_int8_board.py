"""Integer routines on an emulated ARM processor without the dot product extension; other tests have one with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

from softneuro_tvm import registry
from softneuro_tvm.devices import load_device
from softneuro_tvm.formats import TensorType, pack, physical_shape, unpack
from softneuro_tvm.layers.layout_cast import LayoutCastAttributes
from softneuro_tvm.registry import layer_kind
from tests.board.conftest import arm_board as arm_board
from tests.board.test_arm_routines import compiled
from tests.board.test_arm_routines import session as session
from tests.routines.test_conformance import Machine, cases, verify

DEVICE = load_device("cortex-a72", 1)
NAMES = ("quantized_conv2d/direct", "quantized_conv2d/depthwise", "quantized_dense/packed")


def loaded(kernels: dict[str, Any], session: Any, folder: Path) -> Any:
    library = compiled(kernels, folder)
    session.upload(str(library))
    return session.load_module(library.name)


@pytest.mark.parametrize("name", NAMES)
def test_widening_products(name: str, session: Any, tmp_path: Path) -> None:
    routine = registry.routine(name)
    found = list(cases(routine, layer_kind(routine.kind), Machine("cortex-a72", DEVICE, 2)))
    assert all(case.variant["dot"] == "smull" for case in found)
    kernels = {f"k{i}": case.routine.emit(case.workload, case.variant, DEVICE) for i, case in enumerate(found)}
    module, device = loaded(kernels, session, tmp_path), session.cpu()

    def run(kernel: str, arguments: list[np.ndarray], buffers: list[tuple[tuple[int, ...], str]]) -> list[np.ndarray]:
        unwritten = [np.full(shape, 99, dtype) for shape, dtype in buffers]
        inputs, outputs = ([tvm.runtime.tensor(a, device) for a in arrays] for arrays in (arguments, unwritten))
        module.get_function(kernel)(*inputs, *outputs)
        return [output.numpy() for output in outputs]

    wrong = [verify(found[int(kernel[1:])], lambda *given, kernel=kernel: run(kernel, *given)) for kernel in kernels]
    assert not any(wrong), "\n".join(filter(None, wrong))


def test_layout_casts_of_bytes(session: Any, tmp_path: Path) -> None:
    pairs = [("NCHW", "NCHW16c"), ("NCHW16c", "NCHW"), ("NHWC", "NCHW16c"), ("NCHW", "NHWC")]
    shape, adapter = (2, 20, 6, 7), registry.routine("layout_cast/transposed")
    x = np.random.default_rng(0).integers(-128, 128, shape).astype("int8")
    kernels = {}
    for i, (source, target) in enumerate(pairs):
        workload = layer_kind("layout_cast").workload(LayoutCastAttributes(source, target), [TensorType(shape, "int8")])
        (variant,) = adapter.variants(workload, DEVICE)
        kernels[f"k{i}"] = adapter.emit(workload, variant, DEVICE)
    module, device = loaded(kernels, session, tmp_path), session.cpu()
    for kernel, (source, target) in zip(kernels, pairs, strict=True):
        y = tvm.runtime.tensor(np.full(physical_shape(shape, target), 99, "int8"), device)
        module.get_function(kernel)(tvm.runtime.tensor(pack(x, source), device), y)
        np.testing.assert_array_equal(unpack(y.numpy(), target, shape), x)
