"""Settings of the blocked convolutions that small examples do not choose by themselves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm

from softneuro_tvm.activations import IDENTITY, Activation
from softneuro_tvm.device import Device, host_device
from softneuro_tvm.formats import Format, TensorType, pack, physical_shape, unpack
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.conv2d import Conv2d, Conv2dAttributes
from softneuro_tvm.registry import routine
from softneuro_tvm.routine import Variant

KIND = Conv2d()


def convolution(shape: tuple[int, ...], k: int, kernel: tuple[int, int], attributes: Conv2dAttributes) -> Workload:
    x = TensorType(shape)
    weights = {"weight": TensorType((k, shape[1], *kernel)), "bias": TensorType((k,))}
    inputs = [x, *KIND.output_types(attributes, [x], weights)] if attributes.residual else [x]
    return KIND.workload(attributes, inputs, weights)


def setting(workload: Workload, layouts: tuple[str, str], **params: int | str) -> Variant:
    residual = (Format(layouts[1]),) * (len(workload.inputs) - 1)
    return Variant(tuple(params.items()), (Format(layouts[0]), *residual), (Format(layouts[1]),))


def relative_error(name: str, workload: Workload, variant: Variant, device: Device) -> float:
    chosen = routine(name)
    inputs, weights = KIND.sample(workload)
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_storage_rewrite": True}):
        module = tvm.tirx.build(chosen.emit(workload, variant, device), tvm.target.Target(dict(device.target)))
    formats = [port.layout for port in variant.inputs]
    arguments = [*map(pack, inputs, formats), *chosen.pack(workload, variant, weights)]
    layout, shape = variant.outputs[0].layout, workload.outputs[0].shape
    y = tvm.runtime.tensor(np.full(physical_shape(shape, layout), np.nan, "float32"))
    module["main"](*map(tvm.runtime.tensor, arguments), y)
    assert np.isfinite(y.numpy()).all()
    exact = {key: value.astype("float64") for key, value in weights.items()}
    (expected,) = KIND.reference(workload.attributes, [x.astype("float64") for x in inputs], exact)
    return float(np.abs(unpack(y.numpy(), layout, shape) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("activation", [IDENTITY, Activation("silu")], ids=str)
@pytest.mark.parametrize("layouts", [("NCHW8c", "NCHW4c"), ("NCHW4c", "NCHW8c"), ("NHWC", "NHWC")], ids="-".join)
@pytest.mark.parametrize("copy", ["rows", "columns"])
def test_direct_with_partial_sums_and_bands_of_two_heights(
    copy: str, layouts: tuple[str, str], activation: Activation
) -> None:
    """Steps leave sums in y; 13 rows make bands of 7 and 6; 3 groups of 2 and 1 vectors are shared by 2 parts."""
    device = dataclasses.replace(host_device(2), vector_lanes=8, vector_registers=16)
    k = 40 if layouts[1] == "NHWC" else 36
    attributes = Conv2dAttributes((2, 1), (1, 1, 2, 1), residual=True, activation=activation)
    workload = convolution((2, 20, 25, 17), k, (3, 3), attributes)
    variant = setting(workload, layouts, lanes=8, vectors=2, copy=copy, bands=2, parts=2, steps=2)
    assert relative_error("conv2d/direct", workload, variant, device) < 2e-5


def test_prefetch_may_pass_the_end_of_the_weights() -> None:
    device = dataclasses.replace(host_device(2), vector_lanes=8, vector_registers=16, l2_bytes=1 << 10)
    workload = convolution((1, 32, 7, 7), 48, (3, 3), Conv2dAttributes(padding=(1, 1, 1, 1)))
    variant = setting(workload, ("NCHW8c", "NCHW8c"), lanes=8, vectors=2, copy="columns", bands=1, parts=3, steps=4)
    assert relative_error("conv2d/direct", workload, variant, device) < 2e-5


@pytest.mark.parametrize("shape", [(2, 20, 23, 1), (3, 64, 1, 1)], ids=str)
def test_pointwise_with_uneven_bands_and_steps(shape: tuple[int, ...]) -> None:
    device = dataclasses.replace(host_device(2), vector_lanes=8, vector_registers=16)
    workload = convolution(shape, 36, (1, 1), Conv2dAttributes(activation=Activation("relu")))
    bands = min(2, shape[2])
    variant = setting(workload, ("NCHW8c", "NCHW4c"), lanes=8, vectors=3, copy="flat", bands=bands, parts=2, steps=2)
    assert relative_error("conv2d/pointwise", workload, variant, device) < 2e-5


@pytest.mark.parametrize("groups", [1, 2])
def test_im2col_with_bands_of_two_heights(groups: int) -> None:
    device = dataclasses.replace(host_device(2), vector_lanes=8, vector_registers=16)
    attributes = Conv2dAttributes((2, 2), (1, 1, 1, 1), groups=groups, activation=Activation("tanh"))
    weights = {"weight": TensorType((14, 12 // groups, 3, 3)), "bias": TensorType((14,))}
    workload = KIND.workload(attributes, [TensorType((2, 12, 25, 19))], weights)
    variant = setting(workload, ("NCHW", "NCHW"), lanes=8, vectors=2, tile=4, bands=2, parts=3)
    assert relative_error("conv2d/im2col", workload, variant, device) < 2e-5
