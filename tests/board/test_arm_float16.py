"""Float16 routines on an emulated ARM board that has the arithmetic, against the float64 references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from softneuro_tvm import registry
from softneuro_tvm.devices import load_device
from softneuro_tvm.registry import layer_kind
from tests.routines.test_float16 import NAMES, cases
from tests.support.arm_kernels import check, own_kernels

DEVICE = load_device("cortex-a76", 1)


@pytest.mark.parametrize("name", NAMES)
def test_on_neon(name: str, arm_session: Any, tmp_path: Path) -> None:
    found = cases(name, layer_kind(registry.routine(name).kind), DEVICE, 1)
    check(own_kernels(found, DEVICE), DEVICE, arm_session, tmp_path)
