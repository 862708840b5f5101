"""The inner loops of the convolutions must keep their accumulators in vector registers."""

from __future__ import annotations

import re

import pytest

from softneuro_tvm.activations import Activation
from softneuro_tvm.device import Device
from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.conv2d import Conv2d, Conv2dAttributes
from softneuro_tvm.layers.conv_transpose2d import ConvTranspose2d, ConvTranspose2dAttributes
from softneuro_tvm.registry import routine
from tests.support.assembly import count, innermost_loops, kernel_assembly

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
    variant = next(iter(routine(name).variants(workload, DEVICES[mcpu])))
    text = kernel_assembly(name, workload, variant, DEVICES[mcpu])
    loops = [body for body in innermost_loops(text) if count("vfmadd", body)]
    # the loop body repeats every multiply-add of a tile for four input channels
    assert max(count("vfmadd", body) for body in loops) >= 4 * ACCUMULATORS[mcpu]
    for body in loops:
        for line in re.findall(r"^\s*vfmadd.*$", body, re.MULTILINE):
            assert REGISTER[mcpu] in line
        assert [line for line in body.splitlines() if "(%rsp" in line and re.search("%[yz]mm", line)] == []
