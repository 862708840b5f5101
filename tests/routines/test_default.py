from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TVM_NUM_THREADS", "2")

import tvm
from tvm import te, tirx

from softneuro_tvm import codegen, registry
from softneuro_tvm.device import Device, host_device
from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.conv2d import Conv2dAttributes
from softneuro_tvm.layers.dense import DenseAttributes
from softneuro_tvm.layers.elementwise import ElementwiseAttributes
from softneuro_tvm.layers.gather_channels import GatherChannelsAttributes
from softneuro_tvm.layers.matmul import MatmulAttributes
from softneuro_tvm.layers.pool2d import Pool2dAttributes
from softneuro_tvm.layers.reduction import ReductionAttributes
from softneuro_tvm.layers.softmax import SoftmaxAttributes
from softneuro_tvm.registry import layer_kind

_schedule: Any = importlib.import_module("softneuro_tvm.routines._schedule")

DEFAULT = registry.routine("default/te")
RELAX = registry.routine("default/relax")
KINDS = sorted(set(registry.layer_kinds()) - {"relax", "layout_cast", "dtype_cast", "quantized_elementwise"})


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Two threads, which even the smallest stage is spread over."""
    monkeypatch.setattr(_schedule, "PARALLEL_WORK", 1)
    return host_device(2)


def build(functions: list[Any], device: Device) -> Any:
    module = tvm.IRModule({f"k{i}": codegen.rename(function, f"k{i}") for i, function in enumerate(functions)})
    with tvm.transform.PassContext(opt_level=3, config=codegen.PASS_CONFIG):
        return tvm.tirx.build(module, tvm.target.Target(dict(device.target)))


def error(kernel: Any, workload: Workload) -> float:
    """Relative error of the default kernel for a workload."""
    kind = layer_kind(workload.kind)
    inputs, weights = kind.sample(workload)
    wide = [x.astype("float64") if x.dtype.kind == "f" else x for x in inputs]
    exact = {name: w.astype("float64") for name, w in weights.items()}
    (expected,) = kind.reference(workload.attributes, wide, exact)
    fill = np.nan if expected.dtype.kind == "f" else 99
    output = tvm.runtime.tensor(np.full(expected.shape, fill, workload.outputs[0].dtype))
    (variant,) = DEFAULT.variants(workload, host_device())
    kernel(*map(tvm.runtime.tensor, [*inputs, *DEFAULT.pack(workload, variant, weights)]), output)
    result = output.numpy()
    assert np.isfinite(result).all()
    return float(np.abs(result - expected).max() / max(1e-30, np.abs(expected).max()))


def emit(workload: Workload, device: Device) -> Any:
    assert DEFAULT.refusal(workload, device) is None
    (variant,) = DEFAULT.variants(workload, device)
    return DEFAULT.emit(workload, variant, device)


@pytest.mark.parametrize("kind", KINDS)
def test_every_example_in_parallel(kind: str, device: Device) -> None:
    workloads = list(layer_kind(kind).examples())
    built = build([emit(workload, device) for workload in workloads], device)
    for index, workload in enumerate(workloads):
        bound = DEFAULT.error_bound(workload, next(iter(DEFAULT.variants(workload, device))))
        assert error(built[f"k{index}"], workload) <= bound, workload


def larger() -> list[tuple[str, Any, list[tuple[int, ...]], dict[str, tuple[int, ...]]]]:
    """Extents that the examples are too small for: several vectors, primes, long sums."""
    shuffle = tuple((j % 2, j // 2) for j in range(58))
    return [
        ("conv2d", Conv2dAttributes(padding=(1, 1, 1, 1)), [(1, 8, 9, 64)], {"weight": (20, 8, 3, 3), "bias": (20,)}),
        ("conv2d", Conv2dAttributes((2, 2)), [(2, 8, 9, 75)], {"weight": (6, 8, 3, 3), "bias": (6,)}),
        ("dense", DenseAttributes(), [(3, 320)], {"weight": (37, 320), "bias": (37,)}),
        ("dense", DenseAttributes(), [(1, 331)], {"weight": (64, 331), "bias": (64,)}),
        ("matmul", MatmulAttributes(), [(2, 37, 48), (2, 48, 97)], {}),
        ("matmul", MatmulAttributes(transpose_b=True), [(2, 19, 64), (2, 131, 64)], {}),
        ("pool2d", Pool2dAttributes("max", (3, 3), (2, 2), (1, 1, 1, 1)), [(1, 5, 66, 66)], {}),
        ("pool2d", Pool2dAttributes("average", (16, 32)), [(1, 37, 16, 32)], {}),
        ("softmax", SoftmaxAttributes(1), [(3, 1000)], {}),
        ("reduction", ReductionAttributes("max", (0, 1)), [(64, 48)], {}),
        ("elementwise", ElementwiseAttributes((("mul", ("x0", "x1")),)), [(2, 64, 9, 9), (1, 64, 1, 1)], {}),
        ("elementwise", ElementwiseAttributes((("tanh", ("x0",)),)), [(2, 50, 9, 7)], {}),
        ("gather_channels", GatherChannelsAttributes(shuffle), [(1, 29, 14, 14)] * 2, {}),
    ]


@pytest.mark.parametrize("threads", [1, 2])
def test_larger_layers(threads: int, device: Device) -> None:
    tuned = device.with_threads(threads)
    workloads = [
        layer_kind(kind).workload(attributes, [TensorType(s) for s in shapes], {k: TensorType(s) for k, s in w.items()})
        for kind, attributes, shapes, w in larger()
    ]
    functions = [emit(workload, tuned) for workload in workloads]
    for workload, function in zip(workloads, functions, strict=True):
        has_loops_to_spread = workload.outputs[0].shape != ()
        assert ("T.parallel" in function.script()) == (threads > 1 and has_loops_to_spread), workload
    built = build(functions, tuned)
    for index, workload in enumerate(workloads):
        assert error(built[f"k{index}"], workload) <= 2e-6, workload


@pytest.mark.parametrize(
    ("extent", "lanes", "length"),
    [(64, 16, 16), (56, 16, 28), (14, 16, 14), (37, 16, 1), (32, 8, 8), (7, 8, 7), (3, 8, 1), (2, 4, 1), (1, 4, 1)],
)
def test_vector_length(extent: int, lanes: int, length: int) -> None:
    assert _schedule.vector_length(extent, lanes) == length


def test_reduction_keeps_its_vector_and_its_reader_together(device: Device) -> None:
    kind = layer_kind("conv2d")
    weights = {"weight": TensorType((16, 8, 3, 3)), "bias": TensorType((16,))}
    function = emit(kind.workload(Conv2dAttributes(), [TensorType((1, 8, 10, 34))], weights), device)
    text = function.script()
    assert text.count("T.parallel") == 1 and text.count("T.vectorized") == 3  # clear, accumulate, epilogue


def test_sums_along_memory_are_split_over_the_lanes(device: Device) -> None:
    kind = layer_kind("dense")
    weights = {"weight": TensorType((16, 64)), "bias": TensorType((16,))}
    function = emit(kind.workload(DenseAttributes(), [TensorType((1, 64))], weights), device)
    assert "_rf" in function.script() and "T.vectorized" in function.script()


def test_moving_elements_is_inlined(device: Device) -> None:
    x = te.placeholder((4, 6), "float32", "x")
    turned = te.compute((6, 4), lambda i, j: x[j, i] + 1.0, "turned")
    y = te.compute((6, 4), lambda i, j: tirx.exp(turned[i, j]), "y")
    assert "sblock_alloc_buffer" not in _schedule.schedule_loops(te.create_prim_func([x, y]), device).script()


def test_costly_stages_with_several_readers_are_not_computed_twice(device: Device) -> None:
    kind = layer_kind("softmax")
    function = emit(kind.workload(SoftmaxAttributes(1), [TensorType((4, 32))]), device)
    assert function.script().count("T.exp") == 1


def unknown_extents() -> Any:
    n = te.var("n")
    x = te.placeholder((n,), "float32", "x")
    return te.create_prim_func([x, te.compute((n,), lambda i: x[i] + 1.0, "y")])


def foreign_call() -> Any:
    x = te.placeholder((8,), "float32", "x")
    y = te.extern((8,), [x], lambda i, o: tirx.call_packed("a.function", i[0], o[0]), "y", dtype="float32")
    return te.create_prim_func([x, y])


@pytest.mark.parametrize("make", [unknown_extents, foreign_call])
def test_what_cannot_be_scheduled_comes_back(make: Callable[[], Any], device: Device) -> None:
    function = make()
    assert _schedule.schedule_loops(function, device).same_as(function)


def test_kinds_without_a_definition_are_refused(device: Device) -> None:
    workload = next(iter(layer_kind("layout_cast").examples()))
    assert DEFAULT.refusal(workload, device) == "needs a layer kind with a TE definition"


# Fall-through layers


def run_relax(module: Any, device: Device, arguments: list[np.ndarray]) -> list[np.ndarray]:
    target = tvm.target.Target(dict(device.target))
    built = tvm.relax.build(module, target, relax_pipeline=tvm.relax.get_default_pipeline(target))
    result = tvm.relax.VirtualMachine(built, tvm.cpu())["main"](*map(tvm.runtime.tensor, arguments))
    return [r.numpy() for r in ([result] if isinstance(result, tvm.runtime.Tensor) else result)]


def fall_through() -> list[Any]:
    return [pytest.param(w, id=f"{i}: {w}") for i, w in enumerate(layer_kind("relax").examples())]


@pytest.mark.parametrize("workload", fall_through())
def test_fall_through_agrees_with_plain_tvm(workload: Workload, device: Device) -> None:
    (variant,) = RELAX.variants(workload, device)
    inputs, weights = layer_kind("relax").sample(workload)
    arguments = [*inputs, *RELAX.pack(workload, variant, weights)]
    found = run_relax(RELAX.emit(workload, variant, device), device, arguments)
    expected = run_relax(workload.attributes.load(), device, arguments)
    for y, wanted, tensor in zip(found, expected, workload.outputs, strict=True):
        assert (y.shape, str(y.dtype)) == (tensor.shape, tensor.dtype)
        np.testing.assert_allclose(y, wanted, atol=1e-6)


def test_fall_through_chain_becomes_one_scheduled_kernel(device: Device) -> None:
    workload = next(iter(layer_kind("relax").examples()))
    (variant,) = RELAX.variants(workload, device)
    module = RELAX.emit(workload, variant, device)
    kernels = [function for function in module.functions.values() if isinstance(function, tirx.PrimFunc)]
    assert len(kernels) == 1 and "T.parallel" in kernels[0].script()


def test_fall_through_constants_keep_the_order_of_the_parameters(device: Device) -> None:
    workload = Workload("relax", None, (), (), ())
    (variant,) = RELAX.variants(workload, device)
    weights = {f"w{i}": np.array([i]) for i in range(12)}
    assert [int(w[0]) for w in RELAX.pack(workload, variant, weights)] == list(range(12))
