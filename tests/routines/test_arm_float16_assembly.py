"""Float16 loops on NEON: eight lanes a multiply-add, by lanes of registers, accumulators in registers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from softneuro_tvm.device import Device
from softneuro_tvm.devices import load_device
from softneuro_tvm.graph import Workload
from softneuro_tvm.registry import routine
from tests.routines.test_arm_assembly import convolution, dense
from tests.support.assembly import count, innermost_loops, kernel_assembly, stack_accesses

DEVICES = ("cortex-a76", "cortex-x1", "neoverse-n1")


def is_half(variant: object) -> bool:
    return variant.outputs[0].dtype == "float16"  # type: ignore[attr-defined]


def loops(name: str, workload: Workload, device: Device) -> list[str]:
    """The loops around no other loop that have multiply-adds, in the kernel of the first float16 variant."""
    variant = next(filter(is_half, routine(name).variants(workload, device)))
    texts = innermost_loops(kernel_assembly(name, workload, variant, device))
    return [text for text in texts if count(r"fml[as]\s+v\d+\.", text) >= 8]


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize(
    ("algorithm", "workload", "least"),
    [
        pytest.param("conv2d/pointwise", convolution(64, 256, 56, 1), 3.5, id="pointwise"),
        pytest.param("conv2d/pointwise", convolution(1024, 256, 14, 1), 3.5, id="pointwise-deep"),
        pytest.param("conv2d/direct", convolution(64, 64, 56, 3), 3.5, id="direct"),
        pytest.param("conv2d/direct", convolution(128, 128, 28, 3, 2), 3.0, id="direct-strided"),
        pytest.param("conv2d/stem", convolution(3, 64, 224, 7, 2), 2.0, id="stem"),
        pytest.param("conv2d/winograd", convolution(64, 64, 56, 3), 3.0, id="winograd"),
        pytest.param("dense/packed", dense(192, 768, 768), 3.5, id="dense"),
    ],
)
def test_products(algorithm: str, workload: Workload, least: float, name: str) -> None:
    found = [text for text in loops(algorithm, workload, load_device(name, 1)) if count(r"fmla.*\.h\[\d\]", text)]
    assert found
    for text in found:
        by_lane = count(r"fmla\s+v\d+\.8h.*\.h\[\d\]", text)
        loads = count(r"(ldr|ldur)\s+[qd]\d", text) + 2 * count(r"ldp\s+[qd]\d", text) + count(r"ld1r?\s", text)
        # half of the registers can be multiplied by lane: where LLVM joins two bodies, some scalars wait on the stack
        joined = algorithm == "conv2d/direct" and workload.attributes.strides[0] > 1
        assert 24 * stack_accesses(text, "qsdh") <= (by_lane if joined else 0)
        assert by_lane >= least * loads
        assert by_lane >= 12 * (count(r"fml[as]\s", text) - by_lane)  # rows that do not fill a vector
        assert count("fcvt", text) == 0


@pytest.mark.parametrize("name", DEVICES)
def test_depthwise(name: str) -> None:
    for text in loops("conv2d/depthwise", convolution(32, 32, 56, 3, 1, 32), load_device(name, 1)):
        assert count(r"fmla\s+v\d+\.8h", text) == count(r"fml[as]\s", text) >= 8
        assert stack_accesses(text, "qsdh") == 0


def test_devices_without_the_arithmetic_have_none() -> None:
    device = load_device("cortex-a76", 1)
    plain = replace(device, features=device.features - {"asimdhp"})
    workload = convolution(64, 64, 14, 3)
    assert any(map(is_half, routine("conv2d/direct").variants(workload, device)))
    assert not any(map(is_half, routine("conv2d/direct").variants(workload, plain)))
