"""Which concatenations and slices need not be copied, by the structure of the graph alone."""

from __future__ import annotations

from typing import Any

import pytest

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.passes.concats import join_slices
from softneuro_tvm.importer.passes.shared_memory import share_memory
from softneuro_tvm.layers.concat import ConcatAttributes, InPlaceConcatAttributes, part_offsets
from softneuro_tvm.layers.relax import RelaxAttributes
from softneuro_tvm.layers.reshape import ReshapeAttributes
from softneuro_tvm.layers.slice import InPlaceSliceAttributes, SliceAttributes, slice_offset
from tests.support.graphs import Builder, assert_same, kinds

CHANNELS = ConcatAttributes(1)
RELU = (("relu", ("x0",)),)


def channels(b: Builder, name: str, x: str, begin: int, end: int) -> str:
    n, _, h, w = b.tensors[x].shape
    return b.add(name, SliceAttributes((0, begin, 0, 0), (n, end, h, w), (1, 1, 1, 1)), x)


def marked(graph: Graph) -> set[str]:
    found = share_memory(graph)
    assert_same(graph, found)
    shared = (InPlaceConcatAttributes, InPlaceSliceAttributes)
    return {layer.name for layer in found.layers if isinstance(layer.attributes, shared)}


def written(batch: int = 1) -> Builder:
    """Two tensors that convolutions write: a and b."""
    b = Builder(x=(batch, 3, 4, 4))
    b.conv("a", "x", 16)
    b.conv("b", "a", 32)
    return b


def test_parts_that_layers_write() -> None:
    b = written()
    b.add("whole", CHANNELS, "a", "b")
    b.conv("y", "whole")
    assert marked(b.graph("y")) == {"whole"}


def test_nested_concatenations() -> None:
    b = written()
    b.add("inner", CHANNELS, "a", "b")
    b.conv("c", "inner", 16)
    b.add("outer", CHANNELS, "inner", "c")
    b.conv("y", "outer")
    assert marked(b.graph("y")) == {"inner", "outer"}


@pytest.mark.parametrize(
    ("parts", "outputs", "batch"),
    [
        (("x", "a"), ("y",), 1),  # a part that the model takes
        (("a", "b"), ("y", "a"), 1),  # one that it returns
        (("a", "b"), ("y", "whole"), 1),  # a whole that it returns
        (("a", "a"), ("y",), 1),  # twice the same
        (("a", "b"), ("y",), 2),  # images lie apart
    ],
)
def test_what_must_be_copied(parts: tuple[str, ...], outputs: tuple[str, ...], batch: int) -> None:
    b = written(batch)
    b.add("whole", CHANNELS, *parts)
    b.conv("y", "whole")
    assert marked(b.graph(*outputs)) == set()


def test_of_two_concatenations_the_larger_one() -> None:
    b = written()
    b.add("small", CHANNELS, "a", "b")
    b.conv("c", "small", 64)
    b.add("large", CHANNELS, "c", "b")
    b.conv("y", "large")
    assert marked(b.graph("y")) == {"large"}


def test_views_are_no_parts() -> None:
    b = written()
    b.add("flat", ReshapeAttributes((1, 16, 8, 2)), "a")
    b.add("back", ReshapeAttributes((1, 16, 4, 4)), "flat")
    b.add("whole", CHANNELS, "back", "b")
    b.conv("y", "whole")
    assert marked(b.graph("y")) == set()


@pytest.mark.parametrize("seen", ["a", "whole"])
def test_nothing_that_is_returned_under_another_shape(seen: str) -> None:
    b = written()
    b.add("whole", CHANNELS, "a", "b")
    b.conv("y", "whole")
    b.add("returned", ReshapeAttributes((*b.tensors[seen].shape, 1)), seen)
    assert marked(b.graph("y", "returned")) == set()


@pytest.mark.parametrize("read", [True, False])
def test_nothing_that_fall_through_layers_touch(read: bool) -> None:
    b = written()
    b.add("whole", CHANNELS, "a", "b")
    b.conv("y", "whole")
    graph = b.graph("y")
    source, target = ("whole", "z") if read else ("x", "a")
    foreign = Layer("foreign", "relax", RelaxAttributes(""), (source,), (target,))
    layers = tuple(layer for layer in graph.layers if layer.name != target)
    layers = (*layers, foreign) if read else (foreign, *layers)
    graph = Graph(layers, {**graph.tensors, "z": graph.tensors["y"]}, ("x",), ("y", "z") if read else ("y",))
    assert not any(isinstance(layer.attributes, InPlaceConcatAttributes) for layer in share_memory(graph).layers)


def test_parts_that_begin_within_a_cache_line() -> None:
    b = Builder(x=(1, 3, 3, 3))
    b.conv("a", "x", 5)
    b.conv("b", "x", 16)
    b.add("whole", CHANNELS, "a", "b")
    b.conv("y", "whole")
    assert marked(b.graph("y")) == set()


def test_slices_stay_where_they_are() -> None:
    b = written()
    channels(b, "left", "b", 0, 16)
    channels(b, "right", "b", 16, 32)
    b.each("y", (("mul", ("x0", "x1")),), "left", "right")
    b.conv("z", "y")
    assert marked(b.graph("z")) == {"left", "right"}


def test_slices_of_inputs_and_slices_that_are_returned_are_copied() -> None:
    b = Builder(x=(1, 32, 4, 4))
    b.add("seen", ReshapeAttributes((1, 32, 4, 4)), "x")
    b.each("a", RELU, "x")
    for name, source in (("of_input", "x"), ("of_view", "seen"), ("returned", "a")):
        channels(b, name, source, 0, 16)
    b.each("y", (("add", ("x0", "x1")),), "of_input", "of_view")
    assert marked(b.graph("y", "returned")) == set()


def test_a_slice_that_is_a_part_is_copied_into_the_whole() -> None:
    b = written()
    channels(b, "left", "b", 0, 16)
    channels(b, "right", "b", 16, 32)
    b.conv("c", "right", 16)
    b.add("whole", CHANNELS, "left", "c")
    b.conv("y", "whole")
    assert marked(b.graph("y")) == {"whole", "right"}


@pytest.mark.parametrize(
    ("shapes", "axis", "layout", "offsets"),
    [
        (((1, 16, 2, 2), (1, 8, 2, 2)), 1, "NCHW", (0, 256)),
        (((1, 16, 2, 2), (1, 8, 2, 2)), 1, "NCHW16c", (0, 256)),
        (((1, 16, 2, 2), (1, 8, 2, 2), (1, 3, 2, 2)), 1, "NCHW8c", (0, 256, 384)),
        (((1, 12, 2, 2), (1, 8, 2, 2)), 1, "NCHW8c", None),
        (((1, 16, 2, 2), (1, 8, 2, 2)), 1, "NHWC", None),
        (((1, 16, 1, 1), (1, 8, 1, 1)), 1, "NHWC", (0, 64)),
        (((2, 16, 2, 2), (2, 8, 2, 2)), 1, "NCHW", None),
        (((1, 16, 2, 2), (1, 16, 3, 2)), 2, "NCHW", None),
        (((1, 16, 2, 2), (1, 16, 3, 2)), 2, "NCHW16c", (0, 256)),
        (((2, 3), (4, 3)), 0, "NC", (0, 24)),
    ],
)
def test_part_offsets(shapes: tuple[Any, ...], axis: int, layout: str, offsets: tuple[int, ...] | None) -> None:
    assert part_offsets([TensorType(shape) for shape in shapes], axis, layout) == offsets


@pytest.mark.parametrize(
    ("begin", "end", "strides", "layout", "offset"),
    [
        ((0, 16, 0, 0), (1, 32, 4, 6), (1, 1, 1, 1), "NCHW", 16 * 24 * 4),
        ((0, 16, 0, 0), (1, 30, 4, 6), (1, 1, 1, 1), "NCHW8c", 16 * 24 * 4),
        ((0, 12, 0, 0), (1, 30, 4, 6), (1, 1, 1, 1), "NCHW8c", None),
        ((0, 16, 0, 0), (1, 32, 4, 6), (1, 1, 1, 1), "NHWC", None),
        ((0, 16, 0, 0), (1, 32, 4, 6), (1, 2, 1, 1), "NCHW", None),
        ((0, 0, 1, 0), (1, 48, 3, 6), (1, 1, 1, 1), "NCHW", None),
        ((0, 0, 1, 0), (1, 48, 3, 6), (1, 1, 1, 1), "NHWC", 6 * 48 * 4),
        ((0, 5, 1, 0), (1, 6, 3, 6), (1, 1, 1, 1), "NCHW", (5 * 24 + 6) * 4),
        ((0, 5, 1, 2), (1, 6, 2, 3), (1, 7, 7, 7), "NCHW", (5 * 24 + 6 + 2) * 4),
        ((0, 16, 0, 0), (1, 32, 3, 6), (1, 1, 1, 1), "NCHW16c", 24 * 16 * 4),
    ],
)
def test_slice_offset(begin: Any, end: Any, strides: Any, layout: str, offset: int | None) -> None:
    assert slice_offset(TensorType((1, 48, 4, 6)), SliceAttributes(begin, end, strides), layout) == offset


def test_what_was_split_is_not_joined_again() -> None:
    b = written()
    channels(b, "left", "b", 0, 20)
    channels(b, "right", "b", 20, 32)
    b.conv("c", "right", 16)
    b.add("whole", CHANNELS, "a", "left", "right", "c")
    b.add("same", CHANNELS, "left", "right")
    b.add("swapped", CHANNELS, "right", "left")
    b.add("rows", ConcatAttributes(2), "left", "left")
    graph = b.graph("whole", "same", "swapped", "rows")
    short = join_slices(graph)
    assert short.producer["whole"].inputs == ("a", "b", "c")
    assert short.outputs == ("whole", "b", "swapped", "rows")
    assert short.producer["swapped"].inputs == ("right", "left")
    assert kinds(short).count("concat") == 3
    assert_same(graph, short)


def test_slices_that_leave_something_out_are_joined() -> None:
    b = written()
    channels(b, "left", "b", 0, 8)
    channels(b, "right", "b", 8, 24)
    b.add("whole", CHANNELS, "left", "right")
    graph = b.graph("whole")
    assert join_slices(graph).producer["whole"].inputs == ("left", "right")
