"""Transposed convolutions of groups: phases that the examples do not reach, and where the routines hand over."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm

from softneuro_tvm import codegen
from softneuro_tvm.activations import Activation
from softneuro_tvm.device import Device, host_device
from softneuro_tvm.formats import TensorType, pack, physical_shape, unpack
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.conv_transpose2d import ConvTranspose2d, ConvTranspose2dAttributes
from softneuro_tvm.registry import routine

KIND = ConvTranspose2d()
GROUPED = routine("conv_transpose2d/grouped")
SAME = (1, 1, 1, 1)


def device() -> Device:
    return dataclasses.replace(host_device(2), vector_lanes=8, vector_registers=16)


def layer(shape: tuple[int, ...], k: int, kernel: tuple[int, int], attributes: ConvTranspose2dAttributes) -> Workload:
    x, weight = TensorType(shape), TensorType((k, shape[1] // attributes.groups, *kernel))
    weights = {"weight": weight, "bias": TensorType((k,))}
    residual = KIND.output_types(attributes, [x], weights) if attributes.residual else ()
    return KIND.workload(attributes, [x, *residual], weights)


CASES = {
    "bilinear upsampling by 2": layer((2, 20, 5, 33), 20, (4, 4), ConvTranspose2dAttributes((2, 2), SAME, groups=20)),
    "a stride wider than a tile": layer(
        (1, 5, 3, 4), 5, (34, 34), ConvTranspose2dAttributes((17, 17), (8, 8, 9, 9), groups=5)
    ),
    "a stride larger than the kernel": layer(
        (1, 12, 4, 9), 12, (2, 3), ConvTranspose2dAttributes((3, 5), output_padding=(2, 4), groups=12, residual=True)
    ),
    "one row": layer((1, 12, 1, 40), 12, (1, 4), ConvTranspose2dAttributes((1, 2), (0, 1, 0, 1), groups=12)),
    "one column": layer((2, 12, 21, 1), 12, (4, 1), ConvTranspose2dAttributes((3, 1), (2, 0, 1, 0), groups=12)),
    "dilation with and without a common divisor": layer(
        (1, 16, 7, 9), 16, (3, 3), ConvTranspose2dAttributes((2, 3), (2, 1, 1, 3), (1, 2), (4, 2), groups=16)
    ),
    "cut to the inside of one kernel": layer(
        (1, 16, 1, 2), 16, (5, 6), ConvTranspose2dAttributes((2, 2), (2, 3, 2, 3), groups=16)
    ),
    "two filters for each channel": layer(
        (1, 12, 5, 6), 24, (3, 3), ConvTranspose2dAttributes((2, 2), SAME, (1, 1), groups=12)
    ),
    "groups that straddle vectors": layer(
        (1, 15, 5, 6), 21, (4, 3), ConvTranspose2dAttributes((2, 1), groups=3, activation=Activation("silu"))
    ),
    "groups wider than two vectors": layer(
        (1, 10, 5, 6), 40, (3, 3), ConvTranspose2dAttributes((2, 2), groups=2, activation=Activation("relu"))
    ),
}


@pytest.mark.parametrize("workload", CASES.values(), ids=CASES)
def test_grouped(workload: Workload) -> None:
    inputs, weights = KIND.sample(workload)
    exact = {key: value.astype("float64") for key, value in weights.items()}
    (expected,) = KIND.reference(workload.attributes, [x.astype("float64") for x in inputs], exact)
    assert GROUPED.refusal(workload, device()) is None
    for variant in GROUPED.variants(workload, device()):
        layout = variant.outputs[0].layout
        with tvm.transform.PassContext(opt_level=3, config=codegen.PASS_CONFIG):
            target = tvm.target.Target(dict(device().target))
            kernel = GROUPED.emit(workload, variant, device())
            module = tvm.tirx.build(kernel, target, pipeline=codegen.TIR_PIPELINE)
        y = tvm.runtime.tensor(np.full(physical_shape(expected.shape, layout), np.nan, "float32"))
        arguments = [*(pack(x, layout) for x in inputs), *GROUPED.pack(workload, variant, weights)]
        module["main"](*map(tvm.runtime.tensor, arguments), y)
        error = np.abs(unpack(y.numpy(), layout, expected.shape) - expected).max() / np.abs(expected).max()
        assert error <= GROUPED.error_bound(workload, variant)


@pytest.mark.parametrize("groups", [1, 2, 16])
def test_every_number_of_groups_has_one_routine(groups: int) -> None:
    workload = layer((1, 16, 5, 5), 16, (4, 4), ConvTranspose2dAttributes((2, 2), SAME, groups=groups))
    names = [f"conv_transpose2d/{name}" for name in ("phases", "grouped")]
    applicable = [name for name in names if routine(name).refusal(workload, device()) is None]
    assert applicable == [names[groups > 1]]
