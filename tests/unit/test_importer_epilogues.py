"""What convolutions and dense layers take up of the elementwise layers around them."""

from __future__ import annotations

from typing import Any

import pytest

from softneuro_tvm.activations import Activation
from softneuro_tvm.importer.passes.fuse_epilogues import fuse_epilogues
from softneuro_tvm.layers.conv_transpose2d import ConvTranspose2dAttributes
from softneuro_tvm.layers.dense import DenseAttributes
from tests.support.graphs import Builder, assert_same, kinds


def test_scale_bias_and_activation_move_into_a_convolution() -> None:
    b = Builder(x=(2, 3, 5, 4))
    b.conv("conv", "x")
    steps = [
        ("mul", ("x0", "w0")),
        ("add", ("t0", "w1")),
        ("sub", (1.5, "t1")),
        ("sub", ("t2", 0.7)),
        ("div", ("t3", 2.0)),
    ]
    b.each("bn", [*steps, ("clip", ("t4", 0.0, 6.0))], "conv", w0=b.normal(1, 6, 1, 1), w1=b.normal(1, 6, 1, 1))
    graph = b.graph("bn")
    fused = fuse_epilogues(graph)
    assert kinds(fused) == ["conv2d"]
    assert fused.layers[0].attributes.activation == Activation("clip", 0.0, 6.0)
    assert_same(graph, fused)


@pytest.mark.parametrize(
    "entry",
    [
        ("relu", ("x0",)),
        ("clip", ("x0", -0.5, 0.5)),
        ("leaky_relu", ("x0", 0.1)),
        ("hard_sigmoid", ("x0", 0.2, 0.5)),
        ("hard_swish", ("x0",)),
        ("sigmoid", ("x0",)),
        ("silu", ("x0",)),
        ("tanh", ("x0",)),
        ("gelu", ("x0",)),
        ("prelu", ("x0", "w0")),
    ],
)
@pytest.mark.parametrize("dense", [False, True])
def test_every_activation_moves(entry: Any, dense: bool) -> None:
    b = Builder(x=(2, 5, 4) if dense else (2, 3, 5, 4))
    if dense:
        b.add("layer", DenseAttributes(), "x", weight=b.normal(6, 4), bias=b.normal(6))
    else:
        b.conv("layer", "x")
    slope = {"w0": b.normal(1, 1, 6) if dense else b.normal(1, 6, 1, 1)} if entry[0] == "prelu" else {}
    b.each("act", [entry], "layer", **slope)
    graph = b.graph("act")
    fused = fuse_epilogues(graph)
    assert len(fused.layers) == 1
    assert fused.layers[0].attributes.activation.name == entry[0]
    assert_same(graph, fused)


def test_residual_goes_to_the_last_convolution_after_both_offsets() -> None:
    b = Builder(x=(1, 3, 6, 6))
    b.conv("main", "x")
    b.conv("side", "x")
    steps = [("add", ("x0", "w0")), ("mul", ("x1", "w1")), ("add", ("t0", "t1")), ("relu", ("t2",))]
    b.each("join", steps, "main", "side", w0=b.normal(1, 6, 1, 1), w1=b.normal(1, 6, 1, 1))
    graph = b.graph("join")
    fused = fuse_epilogues(graph)
    assert kinds(fused) == ["conv2d", "conv2d"]
    assert fused.layers[1].name == "side" and fused.layers[1].inputs == ("x", "main")
    assert_same(graph, fused)


def test_residual_add_of_dense_layers() -> None:
    b = Builder(x=(2, 5, 4))
    b.add("fc", DenseAttributes(), "x", weight=b.normal(4, 4), bias=b.normal(4))
    b.each("join", [("add", ("x0", "x1")), ("add", ("t0", "w0"))], "x", "fc", w0=b.normal(1, 1, 4))
    graph = b.graph("join")
    fused = fuse_epilogues(graph)
    assert kinds(fused) == ["dense"] and fused.layers[0].attributes.residual
    assert_same(graph, fused)


@pytest.mark.parametrize("dense", [False, True])
def test_residual_add_after_an_activation(dense: bool) -> None:
    b = Builder(x=(2, 5, 6) if dense else (2, 6, 5, 4))
    if dense:
        b.add("layer", DenseAttributes(), "x", weight=b.normal(6, 6), bias=b.normal(6))
    else:
        b.conv("layer", "x")
    b.each("y", [("silu", ("x0",)), ("add", ("x1", "t0")), ("tanh", ("t1",))], "layer", "x")
    graph = b.graph("y")
    fused = fuse_epilogues(graph)
    layer, rest = fused.layers
    assert (layer.attributes.activation.name, layer.attributes.residual) == ("silu", "after")
    assert layer.inputs == ("x", "x")
    assert rest.attributes.expression == (("tanh", ("x0",)),)  # nothing follows the residual
    assert_same(graph, fused)


def test_an_add_prefers_the_layer_whose_activation_is_still_to_come() -> None:
    b = Builder(x=(1, 3, 6, 6))
    b.conv("plain", "x")
    b.conv("activated", "x", activation=Activation("tanh"))
    b.each("y", [("add", ("x0", "x1")), ("relu", ("t0",))], "plain", "activated")
    graph = b.graph("y")
    fused = fuse_epilogues(graph)
    found = {layer.name: layer.attributes for layer in fused.layers}
    assert found["plain"].residual is True and found["plain"].activation.name == "relu"
    assert found["activated"].residual is False and len(found) == 2
    assert_same(graph, fused)


def test_what_must_stay() -> None:
    b = Builder(x=(1, 6, 6, 4), s=(1, 6, 1, 1))
    b.conv("returned", "x")
    b.each("a", [("relu", ("x0",))], "returned")
    b.conv("shared", "a")
    b.each("c", [("relu", ("x0",))], "shared")
    b.each("d", [("tanh", ("x0",))], "shared")
    b.conv("twice", "c")
    b.each("e", [("relu", ("x0",)), ("tanh", ("x0",)), ("add", ("t0", "t1"))], "twice")
    b.conv("scaled", "d")
    b.each("f", [("add", ("x0", "x1"))], "scaled", "s")
    b.conv("positions", "e")
    b.each("g", [("add", ("x0", "w0"))], "positions", w0=b.normal(1, 1, 6, 1))
    b.conv("done", "f", activation=Activation("relu"))
    b.each("h", [("add", ("x0", 1.0))], "done")
    b.conv("wider", "g", 1)
    b.each("i", [("add", ("x0", "w0"))], "wider", w0=b.normal(1, 6, 1, 1))
    b.conv("map", "i")
    b.each("j", [("add", ("x0", "w0"))], "map", w0=b.normal(1, 6, 6, 4))
    graph = b.graph("returned", "h", "j")
    fused = fuse_epilogues(graph)
    assert [layer.name for layer in fused.layers if layer.kind == "elementwise"] == [*"acdefghij"]
    assert_same(graph, fused)


def test_transposed_convolutions_take_everything() -> None:
    b = Builder(x=(2, 4, 5, 3), z=(2, 6, 10, 6))
    attributes = ConvTranspose2dAttributes((2, 2), groups=2)
    b.add("up", attributes, "x", weight=b.normal(6, 2, 2, 2), bias=b.normal(6))
    steps = [("mul", ("x0", "w0")), ("add", ("t0", "w1")), ("add", ("t1", "x1")), ("relu", ("t2",))]
    b.each("skip", steps, "up", "z", w0=b.normal(1, 6, 1, 1), w1=b.normal(1, 6, 1, 1))
    graph = b.graph("skip")
    fused = fuse_epilogues(graph)
    assert kinds(fused) == ["conv_transpose2d"] and fused.layers[0].inputs == ("x", "z")
    assert_same(graph, fused)


def test_scale_after_residual_stays() -> None:
    b = Builder(x=(1, 6, 4, 4))
    b.conv("conv", "x")
    b.each("y", [("add", ("x0", "x1")), ("mul", ("t0", 2.0)), ("relu", ("t1",))], "conv", "x")
    graph = b.graph("y")
    fused = fuse_epilogues(graph)
    assert kinds(fused) == ["conv2d", "elementwise"]
    assert [operator for operator, _ in fused.layers[1].attributes.expression] == ["mul", "relu"]
    assert_same(graph, fused)
