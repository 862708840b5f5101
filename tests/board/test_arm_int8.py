"""Integer routines on an emulated ARM processor without the dot product extension; other tests have one with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softneuro_tvm import registry
from softneuro_tvm.devices import load_device
from softneuro_tvm.formats import TensorType, pack, physical_shape, unpack
from softneuro_tvm.layers.layout_cast import LayoutCastAttributes
from softneuro_tvm.registry import layer_kind
from tests.routines.test_conformance import Machine, cases
from tests.support.arm_kernels import check, runners

DEVICE = load_device("cortex-a72", 1)
NAMES = ("quantized_conv2d/direct", "quantized_conv2d/depthwise", "quantized_dense/packed")


@pytest.mark.parametrize("name", NAMES)
def test_widening_products(name: str, arm_session: Any, tmp_path: Path) -> None:
    routine = registry.routine(name)
    found = list(cases(routine, layer_kind(routine.kind), Machine("cortex-a72", DEVICE, 2)))
    assert all(case.variant["dot"] == "smull" for case in found)
    kernels = [(case, case.routine.emit(case.workload, case.variant, DEVICE)) for case in found]
    check(kernels, DEVICE, arm_session, tmp_path)


def test_layout_casts_of_bytes(arm_session: Any, tmp_path: Path) -> None:
    pairs = [("NCHW", "NCHW16c"), ("NCHW16c", "NCHW"), ("NHWC", "NCHW16c"), ("NCHW", "NHWC")]
    shape, adapter = (2, 20, 6, 7), registry.routine("layout_cast/transposed")
    x = np.random.default_rng(0).integers(-128, 128, shape).astype("int8")
    kernels = []
    for source, target in pairs:
        workload = layer_kind("layout_cast").workload(LayoutCastAttributes(source, target), [TensorType(shape, "int8")])
        (variant,) = adapter.variants(workload, DEVICE)
        kernels.append(adapter.emit(workload, variant, DEVICE))
    for run, (source, target) in zip(runners(kernels, DEVICE, arm_session, tmp_path), pairs, strict=True):
        (y,) = run([pack(x, source)], [(physical_shape(shape, target), "int8")])
        np.testing.assert_array_equal(unpack(y, target, shape), x)
