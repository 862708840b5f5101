"""Winograd convolutions that small examples do not choose by themselves, and parameters that users may edit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm

from softneuro_tvm import codegen
from softneuro_tvm.device import Device, host_device
from softneuro_tvm.errors import RoutineError
from softneuro_tvm.formats import Format, TensorType, pack, physical_shape, unpack
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.conv2d import Conv2d, Conv2dAttributes
from softneuro_tvm.registry import routine
from softneuro_tvm.routine import Parameter, Variant

KIND = Conv2d()
WINOGRAD = routine("conv2d/winograd")
BLOCKED = Format("NCHW8c")
GIVEN: dict[str, Parameter] = {"m": 4, "rows": 1, "columns": 2, "vectors": 1, "grain": "bands", "threads": 1}


def device() -> Device:
    return dataclasses.replace(host_device(2), vector_lanes=8, vector_registers=16)


def convolution(
    kernel: tuple[int, int],
    dilation: tuple[int, int],
    shape: tuple[int, ...],
    k: int,
    strides: tuple[int, int] = (1, 1),
) -> Workload:
    """A convolution with uneven padding, the most that there may be above and to the right."""
    (r, s), (dy, dx) = kernel, dilation
    padding = ((r - 1) * dy, (s - 1) * dx // 3, (r - 1) * dy // 2, (s - 1) * dx)
    attributes, x = Conv2dAttributes(strides, padding, dilation, residual=True), TensorType(shape)
    weights = {"weight": TensorType((k, shape[1], *kernel)), "bias": TensorType((k,))}
    return KIND.workload(attributes, [x, *KIND.output_types(attributes, [x], weights)], weights)


def variant(**params: Parameter) -> Variant:
    return Variant(tuple((GIVEN | params).items()), (BLOCKED, BLOCKED), (BLOCKED,))


CASES = [
    (convolution((3, 3), (1, 1), (2, 12, 9, 10), 20), variant(m="6x2", rows=3, vectors=3, threads=2, grain="channels")),
    (convolution((3, 3), (1, 1), (1, 12, 9, 10), 20), variant(m="1x4", rows=3, columns=3)),
    (convolution((3, 3), (2, 3), (2, 12, 9, 10), 20), variant(m=2, rows=5, columns=1, threads=2)),
    (convolution((3, 3), (5, 6), (1, 12, 4, 5), 20), variant(m=2, columns=1, rows=7)),  # further apart than the map
    (convolution((1, 7), (3, 1), (1, 12, 6, 13), 12), variant(m="2x4", columns=3)),
    (convolution((7, 1), (2, 1), (2, 12, 13, 6), 12), variant(m="4x1", columns=6, rows=4, threads=2)),
    (convolution((1, 3), (1, 2), (1, 12, 5, 17), 12), variant(m="1x8", columns=1, rows=4)),
    (convolution((2, 6), (1, 1), (1, 12, 9, 10), 12), variant(m="9x5", columns=2)),
    (convolution((7, 7), (1, 1), (1, 12, 9, 8), 12), variant(m=4)),
    (convolution((3, 3), (1, 1), (2, 12, 21, 18), 20, (2, 2)), variant(m=3, rows=3, vectors=3, columns=3, threads=2)),
    (
        convolution((3, 3), (1, 1), (1, 12, 20, 17), 20, (2, 2)),
        variant(m="5x1", columns=5, threads=2, grain="channels"),
    ),
    (convolution((3, 3), (1, 1), (1, 12, 9, 18), 20, (2, 1)), variant(m="3x4")),
    (convolution((3, 3), (1, 1), (1, 12, 18, 9), 20, (1, 2)), variant(m="4x3", columns=1)),
    (convolution((4, 2), (1, 1), (1, 12, 18, 19), 20, (2, 2)), variant(m="3x2", rows=2)),
    (convolution((2, 5), (1, 1), (1, 12, 11, 19), 20, (2, 2)), variant(m="1x4", rows=2)),
    (convolution((7, 6), (1, 1), (1, 3, 23, 20), 20, (2, 2)), variant(m="3x4", rows=2)),
    (convolution((3, 1), (1, 1), (1, 12, 11, 9), 20, (2, 2)), variant(m="3x1", columns=5)),
    (convolution((1, 7), (1, 1), (2, 12, 6, 29), 20, (2, 2)), variant(m="1x5", rows=4)),
]


@pytest.mark.parametrize(("workload", "chosen"), CASES, ids=lambda value: str(getattr(value, "params_text", "")))
def test_any_tile_of_any_kernel(workload: Workload, chosen: Variant) -> None:
    with tvm.transform.PassContext(opt_level=3, config=codegen.PASS_CONFIG):
        target = tvm.target.Target(dict(device().target))
        kernel = WINOGRAD.emit(workload, chosen, device())
        module = tvm.tirx.build(kernel, target, pipeline=codegen.TIR_PIPELINE)
    inputs, weights = KIND.sample(workload)
    arguments = [*(pack(x, BLOCKED.layout) for x in inputs), *WINOGRAD.pack(workload, chosen, weights)]
    shape = workload.outputs[0].shape
    y = tvm.runtime.tensor(np.full(physical_shape(shape, BLOCKED.layout), np.nan, "float32"))
    module["main"](*map(tvm.runtime.tensor, arguments), y)
    exact = {key: value.astype("float64") for key, value in weights.items()}
    (expected,) = KIND.reference(workload.attributes, [x.astype("float64") for x in inputs], exact)
    error = np.abs(unpack(y.numpy(), BLOCKED.layout, shape) - expected).max() / np.abs(expected).max()
    assert error <= WINOGRAD.error_bound(workload, chosen)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((r, s), stride) for r in range(1, 8) for s in range(1, 8) for stride in (1, 2) if max(r, s) > stride],
    ids=str,
)
def test_offers_few_variants_of_acceptable_error(kernel: tuple[int, int], stride: int, count: int) -> None:
    channels = 64 // (min(kernel[0], stride) * min(kernel[1], stride))  # of all phases 64
    workload = convolution(kernel, (1, 1), (1, channels, 28 * stride, 28 * stride), 96, (stride, stride))
    offered = list(WINOGRAD.variants(workload, device().with_threads(count)))
    assert 1 <= len(set(offered)) == len(offered) <= 5
    assert all(WINOGRAD.error_bound(workload, chosen) <= 1.3e-4 for chosen in offered)


@pytest.mark.parametrize(
    ("channels", "size", "kernel", "is_offered"),
    [((64, 128), 56, 3, True), ((512, 512), 14, 3, False), ((16, 16), 112, 3, False), ((64, 64), 56, 5, True)],
)
def test_strided_layers_must_save_time(channels: tuple[int, int], size: int, kernel: int, is_offered: bool) -> None:
    """Large weights (512 channels) and costly transforms (16 channels) outweigh the products that are saved."""
    c, k = channels
    workload = convolution((kernel, kernel), (1, 1), (1, c, size, size), k, (2, 2))
    refusal = WINOGRAD.refusal(workload, device())
    assert refusal is None if is_offered else "outweighs" in str(refusal)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"m": 9}, "at most 10"),
    ({"m": "4x9"}, "at most 10"),
    ({"m": 0}, "at least 1"),
    ({"m": "large"}, "it needs m"),
    ({"m": "4x"}, "it needs m"),
    ({"rows": 4}, "rows must be a whole number from 1 to 3"),
    ({"rows": 0}, "rows must be"),
    ({"rows": "1"}, "rows must be"),
    ({"columns": 4}, "columns must be a whole number from 1 to 3"),
    ({"vectors": -1}, "vectors must be"),
    ({"vectors": 4}, "vectors must be"),
    ({"threads": 0}, "threads must be"),
    ({"grain": "rows"}, "grain must be one of bands, channels"),
    ({"depth": 1}, "it needs m"),
]


@pytest.mark.parametrize("use", ["emit", "pack", "error_bound", "workspace_bytes"])
@pytest.mark.parametrize(("edited", "message"), FAULTS, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_edited_parameters_are_refused(edited: dict[str, Any], message: str, use: str) -> None:
    workload = convolution((3, 3), (1, 1), (1, 12, 9, 9), 20)
    uses: dict[str, Callable[[Variant], object]] = {
        "emit": lambda chosen: WINOGRAD.emit(workload, chosen, device()),
        "pack": lambda chosen: WINOGRAD.pack(workload, chosen, KIND.sample(workload)[1]),
        "error_bound": lambda chosen: WINOGRAD.error_bound(workload, chosen),
        "workspace_bytes": lambda chosen: WINOGRAD.workspace_bytes(workload, chosen),
    }
    with pytest.raises(RoutineError, match=message):
        uses[use](variant(**edited))


@pytest.mark.parametrize(
    "ports", [("NHWC", "NHWC", "NHWC"), ("NCHW", "NCHW", "NCHW"), ("NCHW8c", "NCHW8c", "NCHW16c")], ids="-".join
)
def test_other_layouts_are_refused(ports: tuple[str, str, str]) -> None:
    workload = convolution((3, 3), (1, 1), (1, 12, 9, 9), 20)
    first, second, last = map(Format, ports)
    with pytest.raises(RoutineError, match="NCHW4c, NCHW8c, NCHW16c"):
        WINOGRAD.emit(workload, Variant(tuple(GIVEN.items()), (first, second), (last,)), device())
