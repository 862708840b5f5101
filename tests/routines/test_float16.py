"""Float16 kernels against the float64 references, on all examples; LLVM emulates the arithmetic where it is missing."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from softneuro_tvm import registry
from softneuro_tvm.device import Device, host_device
from softneuro_tvm.formats import physical_shape
from softneuro_tvm.layer_kind import LayerKind
from softneuro_tvm.registry import layer_kind
from tests.routines.test_conformance import BATCH, Case, chosen, runners, verify, workloads
from tests.routines.test_layout_cast import check as check_layout_cast

HOST = host_device(1)
NEON_LIKE = dataclasses.replace(
    HOST, vector_lanes=4, vector_registers=32, fma=True, features=frozenset({"asimd", "asimdhp"})
)
"""What kernels for ARM look like, on this machine."""
HALF = "float16"
NAMES = (
    *("concat/blocks", "concat/channels", "conv2d/depthwise", "conv2d/direct", "conv2d/pointwise", "conv2d/stem"),
    *("conv2d/winograd", "dense/packed", "dtype_cast/converted", "elementwise/fused", "gather_channels/shuffled"),
    *("pool2d/global_average", "pool2d/pool", "reshape/view", "slice/block", "slice/channels"),
)


def cases(name: str, kind: LayerKind, device: Device, number: int = 2) -> list[Case]:
    """Some of the candidates that read or write float16."""
    found, routine = [], registry.routine(name)
    for workload in workloads(kind):
        variants = routine.variants(workload, device) if routine.refusal(workload, device) is None else ()
        half = [v for v in variants if any(port.dtype == HALF for port in (*v.inputs, *v.outputs))]
        found += [Case(routine, workload, variant) for variant in chosen(half, number, workload.digest)]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_against_reference(name: str) -> None:
    found = cases(name, layer_kind(registry.routine(name).kind), NEON_LIKE)
    assert found
    wrong = []
    for start in range(0, len(found), BATCH):
        batch = found[start : start + BATCH]
        wrong += [verify(case, run) for case, run in zip(batch, runners(batch, NEON_LIKE), strict=True)]
    assert not any(wrong), "\n".join(filter(None, wrong))


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(("NCHW", "NHWC", "NCHW16c", "NCHW8c"), 2)))
@pytest.mark.parametrize("shape", [(1, 32, 5, 7), (2, 20, 6, 6), (1, 3, 9, 9)], ids=str)
def test_layouts_of_float16(shape: tuple[int, ...], source: str, target: str) -> None:
    check_layout_cast(shape, source, target, HALF, NEON_LIKE)


def test_activations_beyond_the_range_are_infinite() -> None:
    """Nothing saturates silently: the comparison with the reference runtime finds it."""
    device, routine = NEON_LIKE, registry.routine("dtype_cast/converted")
    workload = next(w for w in layer_kind("dtype_cast").examples() if w.outputs[0].dtype == HALF)
    (variant,) = routine.variants(workload, device)
    (run,) = runners([Case(routine, workload, variant)], device)
    (x, y) = (physical_shape(workload.inputs[0].shape, f.layout) for f in (variant.inputs[0], variant.outputs[0]))
    (found,) = run([np.full(x, 1e5, np.float32)], [(y, HALF)])
    assert np.isposinf(found).all()
