"""The inner loops of integer products: the expected instructions, by lane on NEON, sums in registers."""

from __future__ import annotations

import pytest

from softneuro_tvm.device import Device
from softneuro_tvm.devices import load_device
from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers._quantized import types_of
from softneuro_tvm.layers.quantized_conv2d import QuantizedConv2dAttributes
from softneuro_tvm.layers.quantized_dense import QuantizedDenseAttributes
from softneuro_tvm.registry import layer_kind, routine
from tests.support.assembly import count, innermost_loops, kernel_assembly, stack_accesses


def on_x86(mcpu: str, lanes: int, registers: int) -> Device:
    target = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": mcpu}
    return Device(mcpu, target, vector_lanes=lanes, vector_registers=registers, fma=True)


DEVICES = {
    "cortex-a76": load_device("cortex-a76", 1),
    "cortex-a72": load_device("cortex-a72", 1),
    "cortex-a53": load_device("cortex-a53", 1),
    "icelake-server": on_x86("icelake-server", 16, 32),
    "alderlake": on_x86("alderlake", 8, 16),
    "skylake-avx512": on_x86("skylake-avx512", 16, 32),
    "haswell": on_x86("haswell", 8, 16),
}
PRODUCTS = {
    "cortex-a76": r"sdot",
    "cortex-a72": r"smull2?",
    "cortex-a53": r"smull2?",
    "icelake-server": r"vpdpbusd",
    "alderlake": r"\{vex\}\s+vpdpbusd",
    "skylake-avx512": r"vpmaddwd",
    "haswell": r"vpmaddwd",
}
"""The instruction that multiplies."""


def convolution(c: int, k: int, size: int, kernel: int, stride: int = 1, groups: int = 1) -> Workload:
    attributes = QuantizedConv2dAttributes(-3, 5, strides=(stride,) * 2, padding=(kernel // 2,) * 4, groups=groups)
    weights = types_of((k, c // groups, kernel, kernel))
    return layer_kind("quantized_conv2d").workload(attributes, [TensorType((1, c, size, size), "int8")], weights)


def dense(rows: int, c: int, k: int) -> Workload:
    attributes = QuantizedDenseAttributes(-3, 5)
    return layer_kind("quantized_dense").workload(attributes, [TensorType((rows, c), "int8")], types_of((k, c)))


def inner_loops(name: str, workload: Workload, mcpu: str) -> list[str]:
    """Loops around no other loop that have at least eight products, in the kernels of all variants."""
    found = []
    for variant in routine(name).variants(workload, DEVICES[mcpu]):
        bodies = innermost_loops(kernel_assembly(name, workload, variant, DEVICES[mcpu]))
        found += [body for body in bodies if count(rf"{PRODUCTS[mcpu]}\s", body) >= 8]
    return found


@pytest.mark.parametrize("mcpu", DEVICES)
@pytest.mark.parametrize(
    ("name", "workload"),
    [
        pytest.param("quantized_conv2d/direct", convolution(64, 64, 56, 3), id="3x3"),
        pytest.param("quantized_conv2d/direct", convolution(256, 256, 14, 3), id="3x3-small"),
        pytest.param("quantized_conv2d/direct", convolution(64, 128, 56, 3, 2), id="3x3-strided"),
        pytest.param("quantized_conv2d/direct", convolution(64, 256, 56, 1), id="1x1"),
        pytest.param("quantized_conv2d/direct", convolution(3, 64, 64, 7, 2), id="stem"),
        pytest.param("quantized_dense/packed", dense(128, 768, 768), id="dense"),
    ],
)
def test_sums_stay_in_registers(name: str, workload: Workload, mcpu: str) -> None:
    """But for a few activations."""
    loops = inner_loops(name, workload, mcpu)
    assert loops
    for loop in loops:
        assert 8 * stack_accesses(loop) <= count(rf"{PRODUCTS[mcpu]}\s", loop)


@pytest.mark.parametrize("workload", [convolution(64, 64, 56, 3), convolution(64, 256, 56, 1)], ids=["3x3", "1x1"])
def test_dot_products_by_lane(workload: Workload) -> None:
    """All of them take the activations from a lane, and each vector that is loaded feeds several."""
    for loop in inner_loops("quantized_conv2d/direct", workload, "cortex-a76"):
        every = count(r"sdot\s", loop)
        assert count(r"sdot\s+v\d+\.4s, v\d+\.16b, v\d+\.4b\[\d\]", loop) == every
        assert count(r"(dup|ld1r)\s", loop) == 0
        loads = count(r"(ldr|ldur)\s+q", loop) + 2 * count(r"ldp\s+q", loop)
        assert every >= 3 * loads


@pytest.mark.parametrize("mcpu", ["cortex-a72", "cortex-a53"])
def test_products_of_bytes_are_added_in_pairs(mcpu: str) -> None:
    for loop in inner_loops("quantized_conv2d/direct", convolution(64, 64, 56, 3), mcpu):
        assert count(r"sadalp\s", loop) == count(r"smull2?\s", loop)
        assert count(r"s?(shll2?|mlal2?|addlp)\s", loop) == 0


@pytest.mark.parametrize("mcpu", DEVICES)
def test_depthwise_multiplies_groups_of_rows(mcpu: str) -> None:
    """A tile of one row sums 2 or 4 rows of the kernel by each product."""
    workload, device = convolution(64, 64, 56, 3, 1, 64), DEVICES[mcpu]
    (variant,) = routine("quantized_conv2d/depthwise").variants(workload, device)
    text = kernel_assembly("quantized_conv2d/depthwise", workload, variant, device)
    tiles = {width for width in (variant["columns"], variant["columns"] - 1)}
    groups = 1 if variant["dot"] in ("sdot", "vpdpbusd") else 2
    each = 16 // variant["lanes"] * groups * 3
    # two tiles at the borders and one inside, of at most two widths
    assert count(rf"{PRODUCTS[mcpu]}\s", text) <= 4 * max(tiles) * each
    assert count(rf"{PRODUCTS[mcpu]}\s", text) >= 3 * min(tiles) * each * 2 // 3
