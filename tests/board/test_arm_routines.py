"""Every routine on NEON against the float64 reference, on an emulated ARM board: all examples of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from softneuro_tvm import registry
from softneuro_tvm.device import Device, vector_unit
from softneuro_tvm.registry import layer_kind
from tests.routines.test_conformance import Machine, cases
from tests.support.arm_kernels import check, own_kernels

LANES, REGISTERS, FMA = vector_unit(frozenset({"asimd"}), "aarch64")
TARGET = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}
DEVICE = Device("arm", TARGET, vector_lanes=LANES, vector_registers=REGISTERS, fma=FMA)
VARIANTS = 2
"""Of each routine for each workload."""

NAMES = [name for name, routine in registry.routines().items() if routine.kind != "*"]


@pytest.mark.parametrize("name", NAMES)
def test_on_neon(name: str, arm_session: Any, tmp_path: Path) -> None:
    routine = registry.routine(name)
    found = list(cases(routine, layer_kind(routine.kind), Machine("arm", DEVICE, VARIANTS)))
    check(own_kernels(found, DEVICE), DEVICE, arm_session, tmp_path)
