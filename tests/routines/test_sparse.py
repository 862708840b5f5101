"""Sparse kernels: fewer weights than the workload admits, output channels without any, panels of two widths, parts."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

os.environ.setdefault("TVM_NUM_THREADS", "2")

import tvm

from softneuro_tvm import codegen
from softneuro_tvm.activations import Activation
from softneuro_tvm.builder import build
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.device import Device, host_device
from softneuro_tvm.formats import Format, TensorType, pack, physical_shape, unpack
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.layers.conv2d import SparseConv2dAttributes
from softneuro_tvm.layers.dense import SparseDenseAttributes
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.reference import evaluate
from softneuro_tvm.registry import layer_kind, routine
from softneuro_tvm.routine import Variant
from softneuro_tvm.selection import select
from tests.support import made_up

KIND = layer_kind("conv2d")


def sparse_graph(shape: tuple[int, ...], k: int, density: float, kept: float) -> Graph:
    """One 1x1 convolution; every third output channel has no weights, of the others a share of `kept` is not zero."""
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((k, shape[1], 1, 1)) * (rng.random((k, shape[1], 1, 1)) < kept)
    weight[::3] = 0
    weights = {"weight": weight.astype("float32"), "bias": rng.standard_normal(k).astype("float32")}
    attributes = SparseConv2dAttributes(density, activation=Activation("silu"))
    y = TensorType((shape[0], k, *shape[2:]))
    layer = Layer("conv", "conv2d", attributes, ("x",), ("y",), weights)
    return Graph((layer,), {"x": TensorType(shape), "y": y}, ("x",), ("y",))


@pytest.mark.parametrize("layout", ["NCHW4c", "NHWC"])
@pytest.mark.parametrize(("vectors", "parts"), [(3, 1), (2, 3), (8, 2)])
def test_panels_parts_and_empty_channels(vectors: int, parts: int, layout: str) -> None:
    """35 positions are 9 vectors of 4: panels of 3, of 2 and 1, of 5 and 4."""
    device = dataclasses.replace(host_device(2), vector_lanes=4, vector_registers=16)
    graph = sparse_graph((2, 24, 5, 7), 20, 0.4, 0.3)
    workload, weights, chosen = graph.workloads["conv"], graph.layers[0].weights, routine("conv2d/sparse")
    params = (("lanes", 4), ("vectors", vectors), ("parts", parts), ("threads", 2))
    variant = Variant(params, (Format(layout),), (Format(layout),))
    with tvm.transform.PassContext(opt_level=3, config=codegen.PASS_CONFIG):
        kernel = chosen.emit(workload, variant, device)
        module = tvm.tirx.build(kernel, tvm.target.Target(dict(device.target)), pipeline=codegen.TIR_PIPELINE)
    x = np.random.default_rng(0).standard_normal((2, 24, 5, 7)).astype("float32")
    y = tvm.runtime.tensor(np.full(physical_shape((2, 20, 5, 7), layout), np.nan, "float32"))
    arguments = [pack(x, layout), *chosen.pack(workload, variant, weights)]
    module["main"](*map(tvm.runtime.tensor, arguments), y)
    expected = evaluate(graph, {"x": x.astype("float64")})["y"]
    error = np.abs(unpack(y.numpy(), layout, expected.shape) - expected).max() / np.abs(expected).max()
    assert error < chosen.error_bound(workload, variant)


def dense_graph(rows: int, c: int, k: int, attributes: SparseDenseAttributes, pruned: str = "") -> Graph:
    """One fully connected layer with random weights, or with whole rows or columns of them."""
    rng, kept = np.random.default_rng(4), attributes.density * 0.9
    mask = {"rows": rng.random((k, 1)) < kept, "columns": rng.random((1, c)) < kept}.get(
        pruned, rng.random((k, c)) < kept
    )
    weights = {"weight": (rng.standard_normal((k, c)) * mask).astype("float32")}
    weights |= {name: rng.standard_normal(k).astype("float32") for name in ("bias", "slope")}
    if attributes.activation.name != "prelu":
        del weights["slope"]
    inputs = ("x", "residual") if attributes.residual else ("x",)
    layer = Layer("fc", "dense", attributes, inputs, ("y",), weights)
    y = TensorType((rows, k))
    return Graph((layer,), {"x": TensorType((rows, c)), "y": y} | dict.fromkeys(inputs[1:], y), inputs, ("y",))


def vector_devices() -> list[Device]:
    """This machine, and it with narrower vectors, as far as these are AVX2 or AVX-512."""
    host = host_device(2)
    narrow = dataclasses.replace(host, target={"kind": "llvm", "mcpu": "haswell"}, vector_lanes=8, vector_registers=16)
    return [device for device in (host, narrow) if host.fma and 8 <= device.vector_lanes <= host.vector_lanes]


@pytest.mark.skipif(not vector_devices(), reason="this machine has neither AVX2 nor AVX-512")
@pytest.mark.parametrize(
    ("graph", "threads"),
    [
        (dense_graph(1, 96, 200, SparseDenseAttributes(0.3)), 2),
        (dense_graph(1, 100, 37, SparseDenseAttributes(0.2, Activation("relu"), residual=True)), 1),
        (dense_graph(4, 70, 129, SparseDenseAttributes(0.4, Activation("prelu"), residual="after")), 2),
        (dense_graph(2, 33, 5, SparseDenseAttributes(0.05, Activation("gelu"))), 1),
        (dense_graph(1, 128, 96, SparseDenseAttributes(0.25), "rows"), 1),
        (dense_graph(3, 128, 96, SparseDenseAttributes(0.25), "columns"), 2),
    ],
)
def test_few_rows(graph: Graph, threads: int) -> None:
    """Whole rows and columns of weights fill more steps than random ones: what does not fit is added one by one."""
    chosen, workload = routine("dense/sparse_vector"), graph.workloads["fc"]
    rng = np.random.default_rng(0)
    data = {name: rng.standard_normal(graph.tensors[name].shape).astype("float32") for name in graph.inputs}
    expected = evaluate(graph, {name: value.astype("float64") for name, value in data.items()})["y"]
    for device in vector_devices():
        assert chosen.refusal(workload, device) is None
        (variant,) = chosen.variants(workload, device.with_threads(1))
        params = tuple((dict(variant.params) | {"threads": threads}).items())
        variant = Variant(params, variant.inputs, variant.outputs)
        with tvm.transform.PassContext(opt_level=3, config=codegen.PASS_CONFIG):
            kernel = chosen.emit(workload, variant, device)
            module = tvm.tirx.build(kernel, tvm.target.Target(dict(device.target)), pipeline=codegen.TIR_PIPELINE)
        y = tvm.runtime.tensor(np.full(expected.shape, np.nan, "float32"))
        arguments = [*data.values(), *chosen.pack(workload, variant, graph.layers[0].weights)]
        module["main"](*map(tvm.runtime.tensor, arguments), y)
        error = np.abs(y.numpy() - expected).max() / np.abs(expected).max()
        assert error < chosen.error_bound(workload, variant)


GRAPHS = {
    "conv2d/sparse": sparse_graph((1, 48, 6, 6), 32, 0.2, 0.15),
    "dense/sparse_vector": dense_graph(1, 64, 48, SparseDenseAttributes(0.2)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_library_with_a_sparse_layer(name: str) -> None:
    """Integer constants reach the library; the measured candidate was another layer's of the same workload."""
    graph, device = GRAPHS[name], host_device(1)
    if all(candidate.routine.name != name for candidate in enumerate_candidates(graph, device).all()):
        pytest.skip(f"{name} does not run on this machine")
    candidates = enumerate_candidates(graph, device)
    measured = {
        candidate: Measurement("ok", (1e-6,) * 5, 1e-6)
        if candidate.routine.name == name
        else made_up.measurement(candidate)
        for candidate in candidates.all()
    }
    plan = select(graph, candidates, measured, device)
    assert any(choice.routine == name for choice in plan.layers)
    x = np.random.default_rng(0).standard_normal(graph.tensors["x"].shape).astype("float32")
    found = build(graph, plan, device)(x)
    expected = evaluate(graph, {"x": x.astype("float64")})["y"]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
