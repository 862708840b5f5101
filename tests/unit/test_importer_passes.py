"""Each pass does what it says, and keeps what the graph computes."""

from __future__ import annotations

from typing import Any

import pytest

from softneuro_tvm.activations import Activation
from softneuro_tvm.graph import Layer
from softneuro_tvm.importer.passes import optimise
from softneuro_tvm.importer.passes.channels import select_channels
from softneuro_tvm.importer.passes.concats import share_concats
from softneuro_tvm.importer.passes.lift_elementwise import lift_elementwise
from softneuro_tvm.importer.passes.merge_elementwise import merge_elementwise
from softneuro_tvm.importer.passes.pooling import average_first, pool_means
from softneuro_tvm.importer.passes.views import simplify_views
from softneuro_tvm.layers.concat import ConcatAttributes
from softneuro_tvm.layers.conv2d import Conv2dAttributes
from softneuro_tvm.layers.pool2d import Pool2dAttributes
from softneuro_tvm.layers.reduction import ReductionAttributes
from softneuro_tvm.layers.reshape import ReshapeAttributes
from softneuro_tvm.layers.slice import SliceAttributes
from softneuro_tvm.layers.transpose import TransposeAttributes
from softneuro_tvm.registry import layer_kind
from tests.support.graphs import Builder, assert_same, kinds


def test_trees_merge_but_nothing_is_computed_twice() -> None:
    b = Builder(x=(2, 6, 4, 4), z=(2, 6, 1, 1))
    b.each("gate", [("sigmoid", ("x0",))], "z")
    b.each("a", [("mul", ("x0", "x1"))], "x", "gate")
    b.each("b", [("add", ("x0", "w0"))], "a", w0=b.normal(1, 6, 1, 1))
    b.each("c", [("sub", ("x0", "w0"))], "x", w0=b.normal(1, 6, 1, 1))
    b.each("d", [("mul", ("x0", "x1")), ("add", ("t0", "x1"))], "b", "c")
    b.each("e", [("exp", ("x0",))], "x")
    b.each("f", [("add", ("x0", "x1"))], "e", "d")
    b.each("g", [("tanh", ("x0",))], "e")
    graph = b.graph("f", "g")
    merged = merge_elementwise(graph)
    assert {layer.name for layer in merged.layers} == {"gate", "e", "f", "g"}
    assert_same(graph, merged)


def test_long_sums_stay_several_layers() -> None:
    inputs = {f"i{n}": (2, 3) for n in range(30)}
    b = Builder(**inputs)
    total = "i0"
    for n in range(1, 30):
        total = b.each(f"s{n}", [("add", ("x0", "x1"))], total, f"i{n}")
    graph = b.graph(total)
    merged = merge_elementwise(graph)
    assert len(merged.layers) == 3 and max(len(layer.inputs) for layer in merged.layers) == 12
    assert_same(graph, merged)


def test_views_cancel() -> None:
    b = Builder(x=(2, 3, 4, 1))
    b.add("a", ReshapeAttributes((6, 4)), "x")
    b.add("b", ReshapeAttributes((2, 3, 4, 1)), "a")
    b.add("c", TransposeAttributes((0, 2, 1, 3)), "b")
    b.add("d", TransposeAttributes((0, 2, 3, 1)), "c")
    b.add("e", SliceAttributes((0, 0, 0, 0), (2, 3, 1, 4), (1, 1, 1, 1)), "d")
    b.add("f", ReshapeAttributes((3, 2, 4)), "e")
    graph = b.graph("f")
    short = simplify_views(graph)
    assert [layer.name for layer in short.layers] == ["f"] and short.layers[0].inputs == ("x",)
    assert_same(graph, short)


def test_elementwise_layers_move_before_reshapes() -> None:
    b = Builder(x=(2, 3, 1, 4), z=(2, 3, 4))
    b.add("a", ReshapeAttributes((2, 3, 4)), "x")
    b.each("b", [("mul", ("x0", "w0")), ("add", ("t0", "x0"))], "a", w0=b.normal(1, 3, 1))
    b.each("c", [("add", ("x0", "x1")), ("mul", ("t0", "w0"))], "a", "b", w0=b.normal(4))
    b.add("d", ReshapeAttributes((2, 3, 1, 4)), "c")
    b.each("e", [("add", ("x0", "x1"))], "c", "z")
    graph = b.graph("d", "e")
    lifted = lift_elementwise(graph)
    ranks = {layer.name: lifted.tensors[layer.outputs[0]].rank for layer in lifted.layers}
    assert (ranks["b"], ranks["c"], ranks["e"]) == (4, 4, 3)
    assert_same(graph, lifted)
    short = simplify_views(lifted)
    assert kinds(short) == ["elementwise", "elementwise", "elementwise", "reshape"]
    assert_same(graph, short)


def test_reshapes_that_mix_axes_stay_before() -> None:
    b = Builder(x=(2, 6))
    b.add("a", ReshapeAttributes((2, 2, 3)), "x")
    b.each("b", [("mul", ("x0", "w0"))], "a", w0=b.normal(1, 2, 1))
    graph = b.graph("b")
    assert [layer.name for layer in lift_elementwise(graph).layers] == ["a", "b"]


def test_transposes_join() -> None:
    b = Builder(x=(2, 3, 4, 5))
    b.add("a", TransposeAttributes((0, 2, 3, 1)), "x")
    b.add("b", TransposeAttributes((3, 0, 1, 2)), "a")
    b.each("c", [("neg", ("x0",))], "a")
    graph = b.graph("b", "c")
    short = simplify_views(graph)
    assert short.producer["b"].inputs == ("x",) and short.producer["b"].attributes.axes == (1, 0, 2, 3)
    assert_same(graph, short)


def test_identity_that_is_an_output() -> None:
    b = Builder(x=(2, 3))
    b.add("y", ReshapeAttributes((2, 3)), "x")
    graph = b.graph("y", "x")
    short = simplify_views(graph)
    assert short.layers == () and short.outputs == ("x", "x") and short.output_names == ("y", "x")


def shuffled(b: Builder, groups: int, *parts: str) -> str:
    b.add("cat", ConcatAttributes(1), *parts)
    n, c, h, w = b.tensors["cat"].shape
    b.add("split", ReshapeAttributes((n, groups, c // groups, h, w)), "cat")
    b.add("swap", TransposeAttributes((0, 2, 1, 3, 4)), "split")
    return b.add("shuffle", ReshapeAttributes((n, c, h, w)), "swap")


def test_shuffle_with_concat_and_split() -> None:
    b = Builder(x=(2, 4, 3, 5), z=(2, 8, 3, 5))
    shuffled(b, 3, "x", "z")
    b.add("left", SliceAttributes((0, 0, 0, 0), (2, 6, 3, 5), (1, 1, 1, 1)), "shuffle")
    b.add("right", SliceAttributes((0, 6, 0, 0), (2, 12, 3, 5), (1, 1, 1, 1)), "shuffle")
    graph = b.graph("left", "right")
    short = select_channels(graph)
    assert kinds(short) == ["gather_channels", "gather_channels"]
    assert_same(graph, short)


def test_shuffle_that_others_read() -> None:
    b = Builder(x=(1, 4, 3, 5), z=(1, 4, 3, 5))
    shuffled(b, 2, "x", "z")
    b.add("rows", SliceAttributes((0, 0, 1, 0), (1, 8, 2, 5), (1, 1, 1, 1)), "shuffle")
    graph = b.graph("rows", "shuffle")
    short = select_channels(graph)
    assert kinds(short) == ["gather_channels", "slice"]
    assert_same(graph, short)


def test_shuffle_whose_parts_and_whole_are_read() -> None:
    b = Builder(x=(1, 4, 3, 5))
    b.add("rows", ConcatAttributes(2), "x", "x")
    shuffled(b, 2, "rows")
    b.add("left", SliceAttributes((0, 0, 0, 0), (1, 2, 6, 5), (1, 1, 1, 1)), "shuffle")
    graph = b.graph("left", "shuffle")
    short = select_channels(graph)
    assert kinds(short) == ["concat", "gather_channels", "slice"]
    assert_same(graph, short)


def test_shuffle_of_joined_rows() -> None:
    b = Builder(x=(1, 4, 3, 5))
    b.add("rows", ConcatAttributes(2), "x", "x")
    b.add("a", ReshapeAttributes((1, 2, 2, 6, 5)), "rows")
    b.add("b", TransposeAttributes((0, 2, 1, 3, 4)), "a")
    b.add("c", ReshapeAttributes((1, 4, 6, 5)), "b")
    graph = b.graph("c")
    short = select_channels(graph)
    assert kinds(short) == ["concat", "gather_channels"]
    assert_same(graph, short)


def test_other_reshapes_are_no_shuffles() -> None:
    b = Builder(x=(1, 4, 4, 4))
    b.add("a", ReshapeAttributes((1, 4, 2, 2, 4)), "x")
    b.add("b", TransposeAttributes((0, 2, 1, 3, 4)), "a")
    b.add("c", ReshapeAttributes((1, 4, 4, 4)), "b")
    graph = b.graph("c")
    assert kinds(select_channels(graph)) == kinds(graph)


def test_concats_share_their_beginnings() -> None:
    b = Builder(p=(1, 2, 3, 3), q=(1, 3, 3, 3), r=(1, 4, 3, 3), s=(1, 1, 3, 3))
    b.add("pq", ConcatAttributes(1), "p", "q")
    b.add("pqr", ConcatAttributes(1), "p", "q", "r")
    b.add("pqrs", ConcatAttributes(1), "p", "q", "r", "s")
    b.add("qr", ConcatAttributes(1), "q", "r")
    graph = b.graph("pq", "pqr", "pqrs", "qr")
    shared = share_concats(graph)
    assert [layer.inputs for layer in shared.layers] == [("p", "q"), ("pq", "r"), ("pqr", "s"), ("q", "r")]
    assert_same(graph, shared)


def pool(b: Builder, name: str, x: str, attributes: Pool2dAttributes) -> None:
    b.tensors[name] = layer_kind("pool2d").output_types(attributes, [b.tensors[x]], {})[0]
    b.layers.append(Layer(name, "pool2d", attributes, (x,), (name,)))


def pointwise(b: Builder, name: str, x: str, **changes: Any) -> None:
    weight = b.normal(6, b.tensors[x].shape[1] // changes.get("groups", 1), 1, 1)
    b.add(name, Conv2dAttributes(**changes), x, weight=weight, bias=b.normal(6))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("kernel", "stride"), [((2, 2), (2, 2)), ((3, 2), (2, 1)), ((5, 7), (1, 1))])
def test_an_average_moves_in_front_of_a_pointwise_convolution(
    groups: int, kernel: tuple[int, int], stride: tuple[int, int]
) -> None:
    b = Builder(x=(2, 4, 5, 7))
    pointwise(b, "conv", "x", groups=groups)
    pool(b, "pool", "conv", Pool2dAttributes("average", kernel, stride))
    b.each("y", [("relu", ("x0",))], "pool")
    graph = b.graph("y")
    moved = average_first(graph)
    assert [layer.name for layer in moved.layers] == ["pool", "conv", "y"]
    assert moved.layers[0].inputs == ("x",) and moved.layers[1].outputs == ("pool",)
    assert_same(graph, moved)


@pytest.mark.parametrize(
    ("conv", "pooling", "returned"),
    [
        ({"activation": Activation("relu")}, {}, ()),
        ({"strides": (2, 2)}, {}, ()),
        ({"padding": (1, 0, 0, 0)}, {}, ()),
        ({}, {"mode": "max"}, ()),
        ({}, {"padding": (1, 1, 1, 1), "count_include_pad": True}, ()),
        ({}, {"ceil_mode": True}, ()),
        ({}, {"kernel": (1, 1), "strides": (1, 1)}, ()),
        ({}, {}, ("conv",)),
    ],
)
def test_what_does_not_commute_with_a_convolution_stays(
    conv: dict[str, Any], pooling: dict[str, Any], returned: tuple[str, ...]
) -> None:
    b = Builder(x=(2, 4, 6, 7))
    pointwise(b, "conv", "x", **conv)
    attributes: dict[str, Any] = {"mode": "average", "kernel": (2, 2), "strides": (2, 2)}
    pool(b, "pool", "conv", Pool2dAttributes(**attributes | pooling))
    graph = b.graph("pool", *returned)
    assert [layer.name for layer in average_first(graph).layers] == ["conv", "pool"]


def test_an_average_stays_behind_a_residual_add() -> None:
    b = Builder(x=(2, 6, 4, 4))
    b.add("conv", Conv2dAttributes(residual=True), "x", "x", weight=b.normal(6, 6, 1, 1), bias=b.normal(6))
    pool(b, "pool", "conv", Pool2dAttributes("average", (2, 2), (2, 2)))
    assert [layer.name for layer in average_first(b.graph("pool")).layers] == ["conv", "pool"]


def test_mean_over_the_map_is_pooling() -> None:
    b = Builder(x=(2, 5, 3, 4), z=(2, 5, 3, 4, 2))
    b.add("mean", ReductionAttributes("mean", (2, 3)), "x")
    b.add("sum", ReductionAttributes("sum", (2, 3)), "x")
    b.add("volume", ReductionAttributes("mean", (2, 3)), "z")
    graph = b.graph("mean", "sum", "volume")
    pooled = pool_means(graph)
    assert kinds(pooled) == ["pool2d", "reduction", "reduction", "reshape"]
    assert_same(graph, pooled)


def test_all_passes_on_a_residual_block_with_a_gate() -> None:
    b = Builder(x=(1, 6, 8, 8))
    b.conv("expand", "x", 12)
    scale, offset = b.normal(1, 12, 1, 1), b.normal(1, 12, 1, 1)
    b.each("bn", [("mul", ("x0", "w0")), ("add", ("t0", "w1"))], "expand", w0=scale, w1=offset)
    b.each("gate", [("sigmoid", ("x0",))], "bn")
    b.each("silu", [("mul", ("x0", "x1"))], "bn", "gate")
    b.add("squeeze", ReductionAttributes("mean", (2, 3), True), "silu")
    b.add("fc", Conv2dAttributes(), "squeeze", weight=b.normal(12, 12, 1, 1), bias=b.normal(12))
    b.each("excite", [("add", ("x0", 3.0)), ("clip", ("t0", 0.0, 6.0)), ("div", ("t1", 6.0))], "fc")
    b.each("scaled", [("mul", ("x0", "x1"))], "silu", "excite")
    b.conv("project", "scaled")
    b.each("sum", [("add", ("x0", "x1"))], "project", "x")
    graph = b.graph("sum")
    short = optimise(graph)
    assert kinds(short) == ["conv2d", "conv2d", "conv2d", "elementwise", "reduction"]
    assert [layer.attributes.activation.name for layer in short.layers if layer.kind == "conv2d"] == [
        "silu",
        "hard_sigmoid",
        "identity",
    ]
    assert_same(graph, short)
