"""The inner loops on NEON multiply by lanes of registers, load little, and keep everything in registers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from softneuro_tvm.routines._lanes import rows_together, tallest_tile

from softneuro_tvm.activations import Activation
from softneuro_tvm.device import Device, vector_unit
from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.conv2d import Conv2d, Conv2dAttributes
from softneuro_tvm.layers.conv_transpose2d import ConvTranspose2d, ConvTranspose2dAttributes
from softneuro_tvm.layers.dense import Dense, DenseAttributes
from softneuro_tvm.layers.matmul import Matmul, MatmulAttributes
from softneuro_tvm.registry import routine
from tests.support.assembly import count, innermost_loops, kernel_assembly, stack_accesses

CPUS = ("cortex-a53", "cortex-a76", "neoverse-v1")
"""In order, out of order, and one with SVE."""

UNROLLED = {"cortex-a53": 40, "cortex-a76": 1 << 20, "neoverse-v1": 1 << 20}
"""Multiply-adds for each access to the stack: LLVM unrolls small loops for the first, for which a register may lack."""


def device(mcpu: str) -> Device:
    lanes, registers, fma = vector_unit(frozenset({"asimd", "sve"}), "aarch64")
    target = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": mcpu}
    return Device(mcpu, target, vector_lanes=lanes, vector_registers=registers, fma=fma)


def convolution(c: int, k: int, size: int, kernel: int, stride: int = 1, groups: int = 1) -> Workload:
    attributes = Conv2dAttributes(
        strides=(stride, stride), padding=(kernel // 2,) * 4, groups=groups, activation=Activation("relu")
    )
    weights = {"weight": TensorType((k, c // groups, kernel, kernel)), "bias": TensorType((k,))}
    return Conv2d().workload(attributes, [TensorType((1, c, size, size))], weights)


def transposed(kernel: int) -> Workload:
    attributes = ConvTranspose2dAttributes((2, 2), (kernel // 2 - 1,) * 4)
    weights = {"weight": TensorType((64, 64, kernel, kernel)), "bias": TensorType((64,))}
    return ConvTranspose2d().workload(attributes, [TensorType((1, 64, 26, 26))], weights)


def dense(rows: int, c: int, k: int) -> Workload:
    weights = {"weight": TensorType((k, c)), "bias": TensorType((k,))}
    return Dense().workload(DenseAttributes(), [TensorType((rows, c))], weights)


def product(transpose_b: bool) -> Workload:
    a, b = (1, 12, 196, 64), (1, 12, 64, 196)
    inputs = [TensorType(a), TensorType(a if transpose_b else b)]
    return Matmul().workload(MatmulAttributes(transpose_b=transpose_b), inputs)


@dataclass(frozen=True)
class Loop:
    """What an innermost loop consists of.

    Args:
        by_lane: Multiply-adds by one lane of a register.
        whole: Other multiply-adds of vectors.
        loads: Vectors and single elements that are loaded.
        stack: Instructions that move vectors, or elements of them, to or from the stack.
    """

    by_lane: int
    whole: int
    loads: int
    stack: int

    @staticmethod
    def of(text: str) -> Loop:
        every, by_lane = count(r"fml[as]\s+v\d+\.4s", text), count(r"fml[as]\s+v\d+\.4s.*\.s\[\d\]", text)
        loads = count(r"(ldr|ldur)\s+[qs]\d", text) + 2 * count(r"ldp\s+[qs]\d", text) + count(r"ld1r?\s", text)
        return Loop(by_lane, every - by_lane, loads, stack_accesses(text, "qsd"))


def inner_loops(name: str, workload: Workload, mcpu: str, params: str = "") -> list[Loop]:
    """The loops around no other loop that have multiply-adds, in the kernel of the first variant with `params`."""
    target = device(mcpu)
    variant = next(v for v in routine(name).variants(workload, target) if params in v.params_text)
    found = map(Loop.of, innermost_loops(kernel_assembly(name, workload, variant, target)))
    return [loop for loop in found if loop.by_lane + loop.whole >= 8]


@pytest.mark.parametrize("mcpu", CPUS)
@pytest.mark.parametrize(
    ("name", "workload", "least"),
    [
        pytest.param("conv2d/direct", convolution(64, 64, 56, 3), 4.0, id="direct"),
        pytest.param("conv2d/direct", convolution(256, 256, 14, 3), 3.5, id="direct-small"),
        pytest.param("conv2d/direct", convolution(64, 128, 56, 3, 2), 3.5, id="direct-strided"),
        pytest.param("conv2d/pointwise", convolution(64, 256, 56, 1), 4.0, id="pointwise"),
        pytest.param("conv2d/pointwise", convolution(256, 512, 28, 1, 2), 3.5, id="pointwise-strided"),
        pytest.param("conv2d/stem", convolution(3, 64, 64, 7, 2), 3.0, id="stem"),
        pytest.param("conv2d/stem", convolution(3, 32, 64, 3), 2.9, id="stem-3x3"),
        pytest.param("conv2d/im2col", convolution(64, 64, 56, 3), 3.0, id="im2col"),
        pytest.param("conv2d/grouped", convolution(128, 128, 56, 3, 1, 32), 4.0, id="grouped"),
        pytest.param("conv2d/grouped", convolution(256, 256, 28, 3, 1, 32), 3.5, id="grouped-wide"),
        pytest.param("conv_transpose2d/phases", transposed(2), 4.0, id="transposed"),
        pytest.param("conv_transpose2d/phases", transposed(4), 4.0, id="transposed-4x4"),
        pytest.param("dense/packed", dense(192, 768, 768), 3.5, id="dense"),
        pytest.param("dense/packed", dense(4, 768, 768), 2.0, id="dense-few-rows"),
        pytest.param("matmul/tiled", product(False), 3.0, id="matmul"),
        pytest.param("matmul/tiled", product(True), 3.0, id="matmul-transposed"),
    ],
)
def test_tiles_multiply_by_lanes_in_registers(name: str, workload: Workload, least: float, mcpu: str) -> None:
    loops = inner_loops(name, workload, mcpu)
    assert loops
    for loop in loops:
        assert UNROLLED[mcpu] * loop.stack <= loop.by_lane
        assert loop.by_lane >= least * loop.loads
        assert loop.by_lane >= 12 * loop.whole  # rows that do not fill a vector


@pytest.mark.parametrize("mcpu", CPUS)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW4c"])
def test_every_tile_and_layout(layout: str, mcpu: str) -> None:
    """Few registers are left with each of the tile shapes."""
    workload = convolution(128, 240, 28, 3)
    target = device(mcpu)
    offered = [v for v in routine("conv2d/direct").variants(workload, target) if v.inputs[0].layout == layout]
    assert {v["vectors"] for v in offered} == ({2, 4} if layout == "NCHW4c" else {2})
    for variant in offered:
        loops = inner_loops("conv2d/direct", workload, mcpu, variant.params_text)
        assert loops
        assert all(loop.stack == 0 for loop in loops)


@pytest.mark.parametrize("mcpu", CPUS)
@pytest.mark.parametrize("params", ["m=6", "m=4"])
def test_winograd_products(params: str, mcpu: str) -> None:
    """The transforms hold more values than there are registers; the products must not."""
    loops = inner_loops("conv2d/winograd", convolution(64, 64, 56, 3), mcpu, params)
    products = [loop for loop in loops if loop.by_lane]
    assert products
    for loop in products:
        assert loop.whole == loop.stack == 0
        assert loop.by_lane >= 3 * loop.loads


@pytest.mark.parametrize("mcpu", CPUS)
@pytest.mark.parametrize(("kernel", "stride", "least"), [(3, 1, 1.8), (3, 2, 1.1), (5, 1, 2.2)])
def test_depthwise(kernel: int, stride: int, least: float, mcpu: str) -> None:
    """Each vector that is loaded feeds all outputs of the row that it reaches."""
    loops = inner_loops("conv2d/depthwise", convolution(32, 32, 56, kernel, stride, 32), mcpu)
    assert loops
    for loop in loops:
        assert UNROLLED[mcpu] * loop.stack <= loop.whole
        assert loop.whole >= least * loop.loads


def test_wider_vectors_multiply_by_memory() -> None:
    assert rows_together(16, 32) == rows_together(8, 16) == rows_together(4, 16) == 0
    assert tallest_tile(2, 32, 0) == 14
    assert tallest_tile(2, 16, 0) == 6


@pytest.mark.parametrize("vectors", range(1, 9))
@pytest.mark.parametrize("together", [1, 2, 4])
def test_tiles_fit_the_registers(vectors: int, together: int) -> None:
    rows = tallest_tile(vectors, 32, together)
    loaded = vectors + -(-rows // together)
    assert rows * vectors + loaded <= 29 or rows == 1
    assert rows * vectors >= 8
