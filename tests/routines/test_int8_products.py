"""Products of bytes: the instruction of a device, exact sums of the largest ones, and layouts of bytes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import tvm
from softneuro_tvm.routines._int8 import Dot

from softneuro_tvm import codegen, registry
from softneuro_tvm.device import Device, host_device
from softneuro_tvm.devices import load_device
from softneuro_tvm.formats import TensorType, pack, physical_shape, unpack
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers._quantized import types_of
from softneuro_tvm.layers.quantized_conv2d import QuantizedConv2dAttributes
from softneuro_tvm.layers.quantized_dense import QuantizedDenseAttributes
from softneuro_tvm.registry import layer_kind
from softneuro_tvm.routine import VIEW, Variant
from tests.routines.test_layout_cast import LAYOUTS, check


def on_x86(mcpu: str, lanes: int, registers: int = 16) -> Device:
    target = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": mcpu}
    return Device(mcpu, target, vector_lanes=lanes, vector_registers=registers)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (on_x86("nehalem", 4), Dot("pmaddwd", 4)),
        (on_x86("sandybridge", 8), Dot("pmaddwd", 4)),
        (on_x86("haswell", 8), Dot("pmaddwd", 8)),
        (on_x86("alderlake", 8), Dot("vpdpbusd", 8)),
        (on_x86("skylake-avx512", 16, 32), Dot("pmaddwd", 16)),
        (on_x86("icelake-server", 16, 32), Dot("vpdpbusd", 16)),
        (load_device("x86-64-v2", 1), Dot("pmaddwd", 4)),
        (load_device("x86-64-v3", 1), Dot("pmaddwd", 8)),
        (load_device("x86-64-v4", 1), Dot("pmaddwd", 16)),
        (load_device("cortex-a53", 1), Dot("smull", 4)),
        (load_device("raspberry-pi-4", 1), Dot("smull", 4)),
        (load_device("cortex-a76", 1), Dot("sdot", 4)),
        (load_device("neoverse-n1", 1), Dot("sdot", 4)),
        (Device("riscv", {"kind": "llvm", "mtriple": "riscv64-linux-gnu"}, vector_lanes=4), Dot("widened", 4)),
    ],
    ids=lambda value: value.name,
)
def test_instruction_of_a_device(device: Device, expected: Dot) -> None:
    assert Dot.of(device) == expected


def dots() -> list[Dot]:
    """What this machine can run."""
    host = host_device(1)
    if host.machine != "x86_64":
        return [Dot.of(host), Dot("widened", 4)]
    narrower = [Dot("pmaddwd", 4), Dot("widened", 4)]
    if host.vector_lanes >= 8 and host.fma:
        narrower += [Dot("pmaddwd", 8), Dot("widened", 8)]
    if Dot.of(host).lanes == 16:
        narrower += [Dot("pmaddwd", 16), Dot("widened", 16)]
    if Dot.of(host) == Dot("vpdpbusd", 16):
        narrower += [Dot("vpdpbusd", 8)]
    return list(dict.fromkeys([Dot.of(host), *narrower]))


def with_dot(name: str, workload: Workload, dot: Dot, device: Device) -> Variant:
    """The routine's first variant, with another instruction."""
    first = next(iter(registry.routine(name).variants(workload, device)))
    changed = {"dot": dot.name, "lanes": dot.lanes, "copy": True}
    params = tuple((key, changed.get(key, value)) for key, value in first.params)
    return Variant(params, first.inputs, first.outputs)


def computed(name: str, workload: Workload, variant: Variant, x: np.ndarray, weights: Any, device: Device) -> Any:
    chosen = registry.routine(name)
    with tvm.transform.PassContext(opt_level=3, config=codegen.PASS_CONFIG):
        kernel = tvm.tirx.build(chosen.emit(workload, variant, device), tvm.target.Target(dict(device.target)))
    y, layout = workload.outputs[0], variant.outputs[0].layout
    arguments = [pack(x, variant.inputs[0].layout), *chosen.pack(workload, variant, weights)]
    written = tvm.runtime.tensor(np.full(physical_shape(y.shape, layout), 99, y.dtype))
    kernel(*[tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arguments], written)
    return unpack(written.numpy(), layout, y.shape)


def convolution(c: int, k: int, kernel: int, dtype: str, groups: int = 1) -> Workload:
    zero_point = 0 if dtype == "uint8" else 127
    attributes = QuantizedConv2dAttributes(zero_point, 0, padding=(kernel // 2,) * 4, groups=groups)
    return layer_kind("quantized_conv2d").workload(
        attributes, [TensorType((1, c, 5, 6), dtype)], types_of((k, c // groups, kernel, kernel))
    )


def dense(c: int, k: int, dtype: str) -> Workload:
    attributes = QuantizedDenseAttributes(0 if dtype == "uint8" else 127)
    return layer_kind("quantized_dense").workload(attributes, [TensorType((3, c), dtype)], types_of((k, c)))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("dot", dots(), ids=str)
@pytest.mark.parametrize(
    "name",
    ["quantized_conv2d/direct", "quantized_conv2d/direct stem", "quantized_conv2d/depthwise", "quantized_dense/packed"],
)
def test_the_largest_products_are_summed_exactly(name: str, dot: Dot, dtype: str) -> None:
    """All elements at the ends of their ranges, where sums of two products of bytes exceed 16 bits."""
    name, _, case = name.partition(" ")
    workload = {
        "quantized_conv2d/direct": convolution(3 if case else 24, 20, 3, dtype),
        "quantized_conv2d/depthwise": convolution(20, 20, 3, dtype, 20),
        "quantized_dense/packed": dense(38, 19, dtype),
    }[name]
    limits, types = np.iinfo(dtype), workload.weight_types
    weights = {
        "weight": np.full(types["weight"].shape, -128, "int8"),
        "bias": np.arange(types["bias"].shape[0], dtype="int32"),
    }
    largest = (limits.max - limits.min) * 128 * np.prod(types["weight"].shape[1:])
    weights["multiplier"] = np.full(types["multiplier"].shape, 127 / largest, "float32")
    far, near = (limits.min, limits.max) if dtype == "int8" else (limits.max, limits.min)
    x = np.full(workload.inputs[0].shape, far, dtype)
    x.ravel()[::7] = x.ravel()[-x.size // 3 :] = near
    (expected,) = layer_kind(workload.kind).reference(workload.attributes, [x], weights)
    assert np.ptp(expected) > 20
    device = host_device(1)
    found = computed(name, workload, with_dot(name, workload, dot, device), x, weights, device)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("source,target", list(itertools.permutations(LAYOUTS, 2)))
def test_layouts_of_bytes(source: str, target: str, dtype: str) -> None:
    for shape in ((1, 32, 5, 7), (2, 20, 6, 6), (1, 3, 9, 9), (1, 1, 2, 2)):
        check(shape, source, target, dtype)


def test_bytes_are_transposed_by_vectors() -> None:
    """A cast element by element would be a loop over single bytes."""
    attributes = layer_kind("layout_cast").Attributes("NCHW", "NCHW16c")
    workload = layer_kind("layout_cast").workload(attributes, [TensorType((1, 32, 8, 8), "uint8")])
    adapter, device = registry.routine("layout_cast/transposed"), host_device(1)
    (variant,) = adapter.variants(workload, device)
    kernel = adapter.emit(workload, variant, device)
    assert kernel is not VIEW
    assert "uint8x16" in kernel.script() or "Shuffle" in kernel.script()


def test_pointwise_reads_in_place_where_nothing_is_converted() -> None:
    device = load_device("cortex-a76", 1)
    routine = registry.routine("quantized_conv2d/direct")
    copies = {
        dtype: {v["copy"] for v in routine.variants(convolution(32, 32, 1, dtype), device)}
        for dtype in ("int8", "uint8")
    }
    assert copies == {"int8": {False}, "uint8": {True}}
