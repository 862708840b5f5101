"""Concatenations and slices without copies: what they compute, with one thread and with two, and when copies remain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import softneuro_tvm as sn
from softneuro_tvm.builder import build, emit
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.graph import Graph
from softneuro_tvm.layers.concat import InPlaceConcatAttributes
from softneuro_tvm.layers.reshape import ReshapeAttributes
from softneuro_tvm.layers.slice import InPlaceSliceAttributes
from softneuro_tvm.reference import evaluate
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection import select
from tests.support import made_up
from tests.support.graphs import Builder
from tests.support.onnx_models import model as onnx_model

VIEWS = ("concat/in_place", "slice/view")


class Network:
    """Writes small ONNX networks on maps of 6 x 8."""

    def __init__(self, channels: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.channels = {"x": channels}
        self.rng = np.random.default_rng(0)

    def _add(self, name: str, node: Any, channels: int) -> str:
        self.nodes.append(node)
        self.channels[name] = channels
        return name

    def conv(self, name: str, x: str, channels: int) -> str:
        weight = self.rng.standard_normal((channels, self.channels[x], 3, 3)) / np.sqrt(9 * self.channels[x])
        self.weights[f"{name}.w"] = weight.astype("float32")
        node = helper.make_node("Conv", [x, f"{name}.w"], [name], name=name, pads=[1, 1, 1, 1])
        return self._add(name, node, channels)

    def concat(self, name: str, *parts: str) -> str:
        node = helper.make_node("Concat", list(parts), [name], name=name, axis=1)
        return self._add(name, node, sum(self.channels[part] for part in parts))

    def each(self, name: str, operator: str, *inputs: str) -> str:
        return self._add(name, helper.make_node(operator, list(inputs), [name], name=name), self.channels[inputs[0]])

    def halves(self, name: str, x: str) -> tuple[str, str]:
        left, right = f"{name}.left", f"{name}.right"
        self.nodes.append(helper.make_node("Split", [x], [left, right], name=name, axis=1))
        self.channels[left] = self.channels[right] = self.channels[x] // 2
        return left, right

    def model(self, *outputs: str) -> onnx.ModelProto:
        shape: list[int | str] = [1, self.channels["x"], 6, 8]
        return onnx_model(self.nodes, {"x": shape}, dict.fromkeys(outputs, TensorProto.FLOAT), self.weights)


def dense_block() -> onnx.ModelProto:
    """Nested concatenations, each read twice, with a normalisation before each convolution."""
    net = Network(3)
    whole = net.conv("stem", "x", 32)
    for i in range(4):
        before = net.each(f"sigmoid{i}", "Sigmoid", whole)
        whole = net.concat(f"whole{i}", whole, net.conv(f"grow{i}", before, 16))
    return net.model(net.conv("y", net.each("last", "Tanh", whole), 5))


def part_read_later() -> onnx.ModelProto:
    """A part is read by another layer before the concatenation, one after it; the whole is changed in between."""
    net = Network(3)
    a = net.conv("a", "x", 32)
    b = net.conv("b", net.each("squashed", "Sigmoid", a), 32)
    whole = net.each("waves", "Sin", net.concat("whole", a, b))
    c = net.each("sum", "Add", net.conv("c", whole, 32), a)
    return net.model(net.conv("y", net.each("product", "Mul", c, b), 4), c)


def cross_stage() -> onnx.ModelProto:
    """Split, some layers on one half, and all joined (the C2f module of YOLOv8)."""
    net = Network(3)
    left, right = net.halves("split", net.conv("a", "x", 64))
    first = net.conv("first", right, 32)
    second = net.conv("second", first, 32)
    return net.model(net.conv("y", net.concat("whole", left, right, first, second), 4))


def shuffle_units() -> onnx.ModelProto:
    """Half of the channels passes each unit untouched (ShuffleNet V2 without its shuffle)."""
    net = Network(3)
    x = net.conv("stem", "x", 64)
    for i in range(3):
        left, right = net.halves(f"split{i}", x)
        x = net.concat(f"whole{i}", net.conv(f"conv{i}", right, 32), left)
    return net.model(net.conv("y", x, 4))


NETWORKS: tuple[Callable[[], onnx.ModelProto], ...] = (dense_block, part_read_later, cross_stage, shuffle_units)


def planned(graph: Graph, threads: int, seed: int, allowed: Any = None) -> tuple[Any, Any]:
    device = sn.host_device(threads)
    candidates = enumerate_candidates(graph, device)
    return select(
        graph, candidates, made_up.with_views(candidates.all(), device, seed), device, allowed=allowed
    ), device


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_agree_with_onnxruntime(network: Callable[[], onnx.ModelProto], threads: int) -> None:
    model = sn.load(network())
    for seed in range(2):
        plan, device = planned(model.graph, threads, 2 * threads + seed)
        assert any(choice.routine in VIEWS for choice in plan.layers)
        module = build(model.graph, plan, device)
        assert sn.verify(model, plan, module).error < 1e-5
        assert module.manifest["memory"]["lower_bound_bytes"] == plan.resources["memory_bytes"]


def test_every_join_of_a_dense_block_is_free() -> None:
    graph = sn.load(dense_block()).graph
    plan, device = planned(graph, 1, 0)
    assert [choice.routine for choice in plan.layers if choice.kind == "concat"] == ["concat/in_place"] * 4
    functions = [variable.name_hint for variable in emit(graph, plan, device).module.functions]
    assert not any("in_place" in name for name in functions)


def test_an_adapter_writes_a_part() -> None:
    model = sn.load(part_read_later())

    def allowed(name: str, candidate: Candidate) -> bool:
        wanted = {"b": "NCHW", "whole": "NCHW16c"}
        return name not in wanted or candidate.variant.outputs[0].layout == wanted[name]

    plan, device = planned(model.graph, 1, 0, allowed)
    (whole,) = (choice for choice in plan.layers if choice.kind == "concat")
    assert whole.routine == "concat/in_place"
    assert [a.target.layout for a in plan.adapters if a.tensor == whole.inputs[1]] == ["NCHW16c"]
    assert sn.verify(model, plan, build(model.graph, plan, device)).error < 1e-5


def forced(graph: Graph, threads: int = 1) -> tuple[Any, list[np.ndarray], list[np.ndarray]]:
    """The module in which all marked layers are views, and its results beside the right ones."""
    plan, device = planned(
        graph, threads, 0, lambda name, c: c.workload.kind not in ("concat", "slice") or c.routine.is_view
    )
    module = build(graph, plan, device)
    rng = np.random.default_rng(1)
    inputs = {name: rng.standard_normal(graph.tensors[name].shape).astype("float32") for name in graph.inputs}
    result = module.runner(module.tensors([], inputs))()
    found = [result] if hasattr(result, "numpy") else list(result)
    return emit(graph, plan, device).module, [each.numpy() for each in found], list(evaluate(graph, inputs).values())


CHANNELS = InPlaceConcatAttributes(1)
RIGHT = InPlaceSliceAttributes((0, 16, 0, 0), (1, 32, 4, 4), (1, 1, 1, 1))


def copied_inputs(b: Builder) -> tuple[str, ...]:
    """A part that the model takes; a slice of it."""
    b.conv("a", "x", 16)
    b.add("whole", CHANNELS, "a", "x")
    b.add("right", RIGHT, "x")
    return b.conv("y", "whole", 16), b.conv("z", "right", 16)


def copied_outputs(b: Builder) -> tuple[str, ...]:
    """A part that the model returns, a whole under another shape, a slice."""
    b.conv("a", "x", 16)
    b.conv("b", "x", 32)
    b.add("first", CHANNELS, "a", "b")
    b.conv("c", "first", 16)
    b.conv("d", "first", 32)
    b.add("second", CHANNELS, "d", "c")
    b.add("flat", ReshapeAttributes((1, 48 * 16)), "second")
    b.add("right", RIGHT, "d")
    return "a", "flat", "right"


def copied_twice(b: Builder) -> tuple[str, ...]:
    """A tensor that two concatenations join, and one that joins it twice."""
    b.conv("a", "x", 16)
    b.conv("b", "a", 16)
    b.add("first", CHANNELS, "a", "b")
    b.add("second", CHANNELS, "b", "a")
    b.add("third", CHANNELS, "second", "second")
    return b.conv("y", "first", 16), b.conv("z", "third", 16)


@pytest.mark.parametrize(("network", "calls"), [(copied_inputs, 2), (copied_outputs, 3), (copied_twice, 2)])
def test_what_cannot_lie_within_another_is_copied(network: Callable[[Builder], tuple[str, ...]], calls: int) -> None:
    b = Builder(x=(1, 32, 4, 4))
    graph = b.graph(*network(b))
    module, found, expected = forced(graph)
    names = [variable.name_hint for variable in module.functions]
    assert sum("in_place" in name or "slice_view" in name for name in names) == calls
    for result, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
