"""Adapters: every pair of layouts, exact, with finite padding; casts that move nothing are views."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from softneuro_tvm.device import Device, host_device
from softneuro_tvm.formats import TensorType, pack, physical_shape, unpack
from softneuro_tvm.layers.layout_cast import LayoutCastAttributes
from softneuro_tvm.registry import layer_kind, routine
from softneuro_tvm.routine import VIEW

tvm = pytest.importorskip("tvm")

LAYOUTS = ("NCHW", "NHWC", "NCHW16c", "NCHW8c", "NCHW12c")


def emit(
    shape: tuple[int, ...], source: str, target: str, dtype: str = "float32", device: Device | None = None
) -> object:
    device = device or host_device(1)
    workload = layer_kind("layout_cast").workload(LayoutCastAttributes(source, target), [TensorType(shape, dtype)])
    adapter = routine("layout_cast/transposed")
    (variant,) = adapter.variants(workload, device)
    return adapter.emit(workload, variant, device)


def cast(array: np.ndarray, source: str, target: str, device: Device | None = None) -> np.ndarray:
    """Casts a packed array with NaN (or 77) in its padding's place where the kernel does not write."""
    device = device or host_device(1)
    function = emit(array.shape, source, target, str(array.dtype), device)
    packed = pack(array, source)
    shape = physical_shape(array.shape, target)
    if function is VIEW:
        return packed.reshape(shape)
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_storage_rewrite": True}):
        module = tvm.tirx.build(function, tvm.target.Target(dict(device.target)))
    x = tvm.runtime.tensor(packed)
    y = tvm.runtime.tensor(np.full(shape, np.nan if array.dtype.kind == "f" else 77, array.dtype))
    module(x, y)
    return np.array(y.numpy())


def check(
    shape: tuple[int, ...], source: str, target: str, dtype: str = "float32", device: Device | None = None
) -> None:
    array = (np.random.default_rng(0).standard_normal(shape) * 50).astype(dtype)
    found = cast(array, source, target, device)
    assert np.isfinite(found).all(), "padding lanes were left unwritten"
    np.testing.assert_array_equal(unpack(found, target, shape), array)


@pytest.mark.parametrize("source,target", list(itertools.permutations(LAYOUTS, 2)))
@pytest.mark.parametrize("shape", [(1, 32, 5, 7), (2, 20, 6, 6), (1, 3, 9, 9), (1, 1, 2, 2)], ids=str)
def test_every_pair_of_layouts(shape: tuple[int, ...], source: str, target: str) -> None:
    check(shape, source, target)


@pytest.mark.parametrize(
    "shape,source,target,dtype",
    [
        ((2, 40), "NC", "NC16c", "float32"),
        ((2, 20, 19), "NCW8c", "NWC", "float32"),
        ((1, 6, 2, 3, 4), "NCDHW", "NDHWC", "float32"),
        ((2, 3, 4, 5, 6, 2), "ABCDEF", "FEDCBA", "float32"),
        ((7,), "C", "C4c", "float32"),
        ((2, 5, 4, 3), "CHWN", "NCHW8c", "float32"),
        ((1, 20, 4, 4), "NCHW", "NCHW16c", "int64"),
        ((1, 10, 4, 4), "NHWC", "NCHW", "uint8"),
    ],
)
def test_other_ranks_orders_and_types(shape: tuple[int, ...], source: str, target: str, dtype: str) -> None:
    check(shape, source, target, dtype)


@pytest.mark.parametrize(
    "source,target", [("NCHW", "NCHW16c"), ("NCHW16c", "NCHW"), ("NCHW16c", "NHWC"), ("NHWC", "NCHW")]
)
def test_parallel_copies_equal_serial_ones(source: str, target: str) -> None:
    check((1, 90, 70, 70), source, target, device=host_device(2))
    check((1, 7, 300, 200), source, target, device=host_device(2))


@pytest.mark.parametrize("lanes", [4, 8])
def test_narrower_vectors(lanes: int) -> None:
    device = dataclasses.replace(host_device(1), vector_lanes=lanes)
    for source, target in itertools.permutations(("NCHW", "NHWC", "NCHW8c"), 2):
        check((2, 20, 6, 6), source, target, device=device)


@pytest.mark.parametrize(
    "shape,source,target",
    [
        ((1, 32, 1, 1), "NCHW16c", "NCHW"),
        ((3, 32, 1, 1), "NHWC", "NCHW8c"),
        ((2, 5, 1, 1), "NCHW", "NHWC"),
        ((2, 1, 6, 7), "NCHW", "NHWC"),
        ((1, 16, 4, 4), "NHWC", "NCHW16c"),
        ((4, 32), "NC", "NC16c"),
    ],
)
def test_casts_that_move_nothing_are_views(shape: tuple[int, ...], source: str, target: str) -> None:
    assert emit(shape, source, target) is VIEW
    check(shape, source, target)


@pytest.mark.parametrize(
    "shape,source,target",
    [((1, 20, 1, 1), "NCHW16c", "NCHW"), ((1, 16, 2, 1), "NCHW", "NHWC"), ((1, 20, 1, 1), "NCHW16c", "NCHW8c")],
)
def test_casts_that_move_or_cut_elements_are_not_views(shape: tuple[int, ...], source: str, target: str) -> None:
    assert emit(shape, source, target) is not VIEW
    check(shape, source, target)
