"""Strassen's algorithm: its matrices, where it is offered, and kernels in settings that small layers do not reach."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TVM_NUM_THREADS", "2")

import tvm
from softneuro_tvm.routines._products import Sizes
from softneuro_tvm.routines._strassen import LEFT, RESULT, block_places, relative_time, sum_weights

from softneuro_tvm import codegen
from softneuro_tvm.activations import Activation
from softneuro_tvm.device import Device, host_device
from softneuro_tvm.formats import Format, TensorType, canonical_format, pack, physical_shape, unpack
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.conv2d import Conv2dAttributes
from softneuro_tvm.layers.dense import DenseAttributes
from softneuro_tvm.registry import layer_kind, routine
from softneuro_tvm.routine import Variant

DEVICE = Device("narrow", {"kind": "llvm"}, vector_lanes=4, vector_registers=16)


def layer(kind: str, shape: tuple[int, ...], k: int, attributes: Any) -> Workload:
    spatial = (1, 1) if kind == "conv2d" else ()
    channels = shape[1] if kind == "conv2d" else shape[-1]
    weights = {"weight": TensorType((k, channels, *spatial)), "bias": TensorType((k,))}
    if attributes.activation.name == "prelu":
        weights["slope"] = TensorType((k,))
    x = TensorType(shape)
    outputs = layer_kind(kind).output_types(attributes, [x], weights)
    return layer_kind(kind).workload(attributes, [x, *outputs] if attributes.residual else [x], weights)


def relative_error(name: str, workload: Workload, variant: Variant, device: Device) -> float:
    chosen, kind = routine(name), layer_kind(workload.kind)
    inputs, weights = kind.sample(workload)
    with tvm.transform.PassContext(opt_level=3, config=codegen.PASS_CONFIG):
        kernel = chosen.emit(workload, variant, device)
        module = tvm.tirx.build(kernel, tvm.target.Target(dict(device.target)), pipeline=codegen.TIR_PIPELINE)
    arguments = [pack(x, port.layout) for x, port in zip(inputs, variant.inputs, strict=True)]
    arguments += chosen.pack(workload, variant, weights)
    shape, layout = workload.outputs[0].shape, variant.outputs[0].layout
    y = tvm.runtime.tensor(np.full(physical_shape(shape, layout), np.nan, "float32"))
    module["main"](*map(tvm.runtime.tensor, arguments), y)
    exact = {key: value.astype("float64") for key, value in weights.items()}
    (expected,) = kind.reference(workload.attributes, [x.astype("float64") for x in inputs], exact)
    return float(np.abs(unpack(y.numpy(), layout, shape) - expected).max() / np.abs(expected).max())


def params(device: Device, levels: int, rows: int, steps: int, parts: int) -> tuple[tuple[str, int], ...]:
    named = {"levels": levels, "lanes": device.vector_lanes, "vectors": 2, "rows": rows, "steps": steps, "parts": parts}
    return (*named.items(), ("threads", device.threads))


@pytest.mark.parametrize("levels", [1, 2])
def test_sums_of_products_of_sums_are_the_product(levels: int) -> None:
    rng = np.random.default_rng(levels)
    left = rng.integers(-9, 10, (8, 12)).astype("float64")
    weight = rng.integers(-9, 10, (16, 12)).astype("float64")
    places, g = block_places(levels), 2**levels
    blocks = np.stack([np.split(np.split(left, g)[i], g, axis=1)[j] for i, j in places])
    products = np.tensordot(_power(LEFT, levels), blocks, 1) @ sum_weights(weight, levels)
    found = np.zeros((8, 16))
    for (i, j), block in zip(places, np.tensordot(_power(RESULT, levels), products, 1), strict=True):
        np.split(np.split(found, g)[i], g, axis=1)[j][...] = block
    np.testing.assert_array_equal(found, left @ weight.T)


def _power(matrix: tuple[tuple[int, ...], ...], levels: int) -> np.ndarray:
    return np.array(matrix) if levels == 1 else np.kron(np.array(matrix), _power(matrix, levels - 1))


def test_it_is_offered_where_products_outweigh_sums() -> None:
    wide = dataclasses.replace(DEVICE, vector_lanes=16, vector_registers=32, l2_bytes=1 << 20)
    assert relative_time(Sizes(1, 1024, 1024, 1024), 2) < relative_time(Sizes(1, 1024, 1024, 1024), 1) < 1
    for rows, depth, columns in ((1000, 64, 256), (1000, 128, 128), (1, 2048, 1024), (1000, 520, 512)):
        refusal = routine("dense/strassen").refusal(layer("dense", (rows, depth), columns, DenseAttributes()), wide)
        assert refusal is not None and "saved products" in refusal
    offered = list(routine("dense/strassen").variants(layer("dense", (256, 512), 512, DenseAttributes()), wide))
    assert [variant["levels"] for variant in offered] == [2, 1, 2]


@pytest.mark.parametrize(("rows", "steps", "parts"), [(7, 1, 1), (3, 2, 2), (4, 3, 3)])
@pytest.mark.parametrize("levels", [1, 2])
def test_dense(levels: int, rows: int, steps: int, parts: int) -> None:
    """Groups of 12 or 6 rows, the last one with fewer; blocks that do not divide them; 5 vectors by panels of 2."""
    device = dataclasses.replace(host_device(2), vector_lanes=4, vector_registers=16)
    attributes = DenseAttributes(Activation("gelu"), residual=True)
    workload = layer("dense", (1, 23, 96), 20 * 2**levels, attributes)
    inputs = tuple(canonical_format(tensor) for tensor in workload.inputs)
    variant = Variant(params(device, levels, rows, steps, parts), inputs, (canonical_format(workload.outputs[0]),))
    bound = routine("dense/strassen").error_bound(workload, variant)
    assert relative_error("dense/strassen", workload, variant, device) < bound


@pytest.mark.parametrize("layout", ["NCHW4c", "NHWC"])
@pytest.mark.parametrize("levels", [1, 2])
def test_pointwise_convolution(levels: int, layout: str) -> None:
    device = dataclasses.replace(host_device(2), vector_lanes=4, vector_registers=16)
    workload = layer("conv2d", (3, 64, 5, 7), 80, Conv2dAttributes(activation=Activation("prelu"), residual=True))
    variant = Variant(params(device, levels, 5, 2, 2), (Format(layout),) * 2, (Format(layout),))
    bound = routine("conv2d/strassen").error_bound(workload, variant)
    assert relative_error("conv2d/strassen", workload, variant, device) < bound
