"""The inner loops of the convolutions must keep their accumulators in vector registers."""

from __future__ import annotations

import re

import pytest
import tvm

from softneuro_tvm.activations import Activation
from softneuro_tvm.device import Device
from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.conv2d import Conv2d, Conv2dAttributes
from softneuro_tvm.layers.conv_transpose2d import ConvTranspose2d, ConvTranspose2dAttributes
from softneuro_tvm.registry import routine

DEVICES = {
    "haswell": Device("haswell", {"kind": "llvm", "mcpu": "haswell"}, vector_lanes=8, vector_registers=16, fma=True),
    "skylake-avx512": Device(
        "skylake-avx512",
        {"kind": "llvm", "mcpu": "skylake-avx512"},
        vector_lanes=16,
        vector_registers=32,
        fma=True,
    ),
}
REGISTER = {"haswell": "%ymm", "skylake-avx512": "%zmm"}
ACCUMULATORS = {"haswell": 10, "skylake-avx512": 26}
"""The least that a tile of two vectors should have."""


def convolution(kernel: int, size: int) -> Workload:
    attributes = Conv2dAttributes(padding=(kernel // 2,) * 4, activation=Activation("relu"))
    weights = {"weight": TensorType((64, 64, kernel, kernel)), "bias": TensorType((64,))}
    return Conv2d().workload(attributes, [TensorType((1, 64, size, size))], weights)


def transposed(kernel: int, size: int) -> Workload:
    padding = (kernel // 2 - 1,) * 4
    attributes = ConvTranspose2dAttributes((2, 2), padding, activation=Activation("relu"))
    weights = {"weight": TensorType((64, 64, kernel, kernel)), "bias": TensorType((64,))}
    return ConvTranspose2d().workload(attributes, [TensorType((1, 64, size, size))], weights)


def assembly(name: str, workload: Workload, device: Device) -> str:
    chosen = routine(name)
    variant = next(iter(chosen.variants(workload, device)))
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_storage_rewrite": True}):
        module = tvm.tirx.build(chosen.emit(workload, variant, device), tvm.target.Target(dict(device.target)))
    return str(module.inspect_source("asm"))


def inner_loops(text: str) -> list[str]:
    """Loops that contain no other loop, and at least one multiply-add."""
    lines = text.splitlines()
    labels = {line[:-1]: i for i, line in enumerate(lines) if re.fullmatch(r"\.L\w+:", line)}
    jumps = [(i, re.fullmatch(r"\s*j\w+\s+(\.L\w+)", line)) for i, line in enumerate(lines)]
    loops = [(labels[jump[1]], end) for end, jump in jumps if jump and labels.get(jump[1], end) < end]
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    bodies = ["\n".join(lines[start:end]) for start, end in inner]
    return [body for body in bodies if "vfmadd" in body]


@pytest.mark.parametrize("mcpu", DEVICES)
@pytest.mark.parametrize(
    ("name", "workload"),
    [
        ("conv2d/direct", convolution(3, 28)),
        ("conv2d/pointwise", convolution(1, 28)),
        ("conv2d/im2col", convolution(3, 32)),
        ("conv_transpose2d/phases", transposed(2, 26)),
        ("conv_transpose2d/phases", transposed(4, 26)),
    ],
    ids=str,
)
def test_accumulators_stay_in_registers(name: str, workload: Workload, mcpu: str) -> None:
    """Sizes are such that the map divides into full tiles."""
    text = assembly(name, workload, DEVICES[mcpu])
    loops = inner_loops(text)
    # the loop body repeats every multiply-add of a tile for four input channels
    assert max(body.count("vfmadd") for body in loops) >= 4 * ACCUMULATORS[mcpu]
    for body in loops:
        for line in re.findall(r"^\s*vfmadd.*$", body, re.MULTILINE):
            assert REGISTER[mcpu] in line
        assert [line for line in body.splitlines() if "(%rsp" in line and re.search("%[yz]mm", line)] == []
