"""Float16 loops on NEON: eight lanes a multiply-add, by lanes of registers, accumulators in registers."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

import pytest
import tvm

from softneuro_tvm import codegen
from softneuro_tvm.device import Device
from softneuro_tvm.devices import load_device
from softneuro_tvm.graph import Workload
from softneuro_tvm.registry import routine
from tests.routines.test_arm_assembly import convolution, dense

DEVICES = ("cortex-a76", "cortex-x1", "neoverse-n1")


def is_half(variant: object) -> bool:
    return variant.outputs[0].dtype == "float16"  # type: ignore[attr-defined]


@lru_cache
def loops(name: str, workload: Workload, device: Device, params: str = "") -> list[str]:
    """The loops around no other loop that have multiply-adds of the first float16 variant with `params`."""
    chosen = routine(name)
    variant = next(v for v in chosen.variants(workload, device) if is_half(v) and params in v.params_text)
    kernel = codegen.rename(chosen.emit(workload, variant, device), "kernel")
    with tvm.transform.PassContext(opt_level=3, config=codegen.PASS_CONFIG):
        module = tvm.tirx.build(
            tvm.IRModule({"kernel": kernel}), tvm.target.Target(dict(device.target)), pipeline=codegen.TIR_PIPELINE
        )
    lines = str(module.inspect_source("asm")).splitlines()
    labels = {line.partition(":")[0]: i for i, line in enumerate(lines) if re.match(r"\.L\w+:", line)}
    jumps = [(i, re.search(r"^\s+(?:b|b\.\w+|t?bn?z|cbn?z)\s.*?(\.L\w+)$", line)) for i, line in enumerate(lines)]
    every = [(labels[jump[1]], end) for end, jump in jumps if jump and labels.get(jump[1], end) < end]
    inner = [a for a in every if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in every)]
    texts = ["\n".join(lines[start:end]) for start, end in inner]
    return [text for text in texts if count(text, r"fml[as]\s+v\d+\.") >= 8]


def count(text: str, pattern: str) -> int:
    return len(re.findall(rf"^\s+{pattern}", text, re.MULTILINE))


def stack(text: str) -> int:
    """Instructions that move vectors, or elements of them, to or from the stack."""
    return count(text, r"(ldr|ldur|ldp|str|stur|stp)\s+[qsdh]\d.*\[sp\b")


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
    found = [text for text in loops(algorithm, workload, load_device(name, 1)) if count(text, r"fmla.*\.h\[\d\]")]
    assert found
    for text in found:
        by_lane = count(text, r"fmla\s+v\d+\.8h.*\.h\[\d\]")
        loads = count(text, r"(ldr|ldur)\s+[qd]\d") + 2 * count(text, r"ldp\s+[qd]\d") + count(text, r"ld1r?\s")
        # half of the registers can be multiplied by lane: where LLVM joins two bodies, some scalars wait on the stack
        joined = algorithm == "conv2d/direct" and workload.attributes.strides[0] > 1
        assert 24 * stack(text) <= (by_lane if joined else 0)
        assert by_lane >= least * loads
        assert by_lane >= 12 * (count(text, r"fml[as]\s") - by_lane)  # rows that do not fill a vector
        assert count(text, "fcvt") == 0


@pytest.mark.parametrize("name", DEVICES)
def test_depthwise(name: str) -> None:
    for text in loops("conv2d/depthwise", convolution(32, 32, 56, 3, 1, 32), load_device(name, 1)):
        assert count(text, r"fmla\s+v\d+\.8h") == count(text, r"fml[as]\s") >= 8
        assert stack(text) == 0


def test_devices_without_the_arithmetic_have_none() -> None:
    device = load_device("cortex-a76", 1)
    plain = replace(device, features=device.features - {"asimdhp"})
    workload = convolution(64, 64, 14, 3)
    assert any(map(is_half, routine("conv2d/direct").variants(workload, device)))
    assert not any(map(is_half, routine("conv2d/direct").variants(workload, plain)))
