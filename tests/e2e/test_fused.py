"""What is computed with a convolution (a residual after its activation, the pooling behind it) against onnxruntime."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

import softneuro_tvm as sn
from softneuro_tvm.builder import build
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.selection import select
from tests.support import made_up
from tests.support.onnx_models import model, normal


def network() -> onnx.ModelProto:
    """Stem and pooling, a bottleneck whose input is added behind its SiLU, convolution and 2x2 pooling."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="stem", strides=[2, 2], pads=[3, 3, 3, 3]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("MaxPool", ["b"], ["c"], name="pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    data = "c"
    for name, weight in (("squeeze", "w2"), ("expand", "w3")):
        nodes += [
            helper.make_node("Conv", [data, weight], [f"{name}.y"], name=name, pads=[1, 1, 1, 1]),
            helper.make_node("Sigmoid", [f"{name}.y"], [f"{name}.s"], name=f"{name}.sigmoid"),
            helper.make_node("Mul", [f"{name}.y", f"{name}.s"], [f"{name}.z"], name=f"{name}.silu"),
        ]
        data = f"{name}.z"
    nodes += [
        helper.make_node("Add", ["c", data], ["d"], name="add"),
        helper.make_node("Conv", ["d", "w4"], ["e"], name="last", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["e"], ["f"], name="last.relu"),
        helper.make_node("MaxPool", ["f"], ["y"], name="last.pool", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    weights = {"w1": normal(20, 3, 7, 7) * 0.1, "b1": normal(20), "w2": normal(12, 20, 3, 3) * 0.1}
    weights |= {"w3": normal(20, 12, 3, 3) * 0.1, "w4": normal(36, 20, 3, 3) * 0.1}
    return model(nodes, {"x": [2, 3, 61, 54]}, {"y": TensorProto.FLOAT}, weights)


@pytest.fixture(scope="module")
def loaded() -> Any:
    return sn.load(network())


def test_the_add_belongs_to_the_convolution(loaded: Any) -> None:
    layers = {layer.name: layer for layer in loaded.graph.layers}
    assert Counter(layer.kind for layer in layers.values()) == {"conv2d": 4, "pool2d": 2}
    expand = layers["expand"]
    assert expand.attributes.residual == "after" and expand.attributes.activation.name == "silu"


@pytest.mark.parametrize(("threads", "seed"), [(1, 0), (1, 1), (2, 2)])
@pytest.mark.parametrize("covered", [False, True])
def test_agrees_with_onnxruntime(loaded: Any, threads: int, seed: int, covered: bool) -> None:
    device = sn.host_device(threads)
    candidates = enumerate_candidates(loaded.graph, device)
    profile = made_up.profile(candidates.all(), seed)
    for candidate in profile:
        if candidate.workload.kind == ("pool2d" if covered else "conv_pool"):
            profile[candidate] = Measurement("ok", (1.0,) * 5, 1e-6)
    plan = select(loaded.graph, candidates, profile, device)
    covers = [choice.covers for choice in plan.layers if choice.covers]
    assert covers == ([("stem", "pool"), ("last", "last.pool")] if covered else [])
    assert sn.verify(loaded, plan, build(loaded.graph, plan, device)).error < 1e-4
