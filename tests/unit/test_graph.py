from __future__ import annotations

import numpy as np
import pytest

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Graph, Layer, topological_order

TYPES = dict.fromkeys("abcd", TensorType((1, 2)))


def layer(name: str, inputs: str, outputs: str, weight: float = 0.0) -> Layer:
    return Layer(name, "fake", 0, tuple(inputs), tuple(outputs), {"w": np.full(3, weight, "float32")})


def test_readers_and_producers() -> None:
    graph = Graph((layer("l", "a", "b"), layer("m", "bb", "c")), TYPES, ("a",), ("c",))
    assert graph.producer["b"].name == "l"
    assert [(reader.name, port) for reader, port in graph.readers["b"]] == [("m", 0), ("m", 1)]
    assert graph.weight_bytes == 24


def test_equal_layers_share_a_workload_but_not_a_digest_of_the_graph() -> None:
    one = Graph((layer("l", "a", "b", 1.0),), TYPES, ("a",), ("b",))
    two = Graph((layer("l", "a", "b", 2.0),), TYPES, ("a",), ("b",))
    assert one.workloads["l"] == two.workloads["l"]
    assert one.workloads["l"].digest == two.workloads["l"].digest
    assert one.digest != two.digest


@pytest.mark.parametrize(
    "layers",
    [
        (layer("l", "b", "c"),),
        (layer("l", "a", "a"),),
        (layer("l", "a", "b"), layer("l", "a", "c")),
    ],
)
def test_malformed_graphs_are_refused(layers: tuple[Layer, ...]) -> None:
    with pytest.raises(ValueError):
        Graph(layers, TYPES, ("a",), ("a",))


def test_topological_order() -> None:
    layers = [layer("m", "b", "c"), layer("l", "a", "b"), layer("n", "c", "d")]
    assert [item.name for item in topological_order(layers, "a")] == ["l", "m", "n"]
    with pytest.raises(ValueError, match="cycle"):
        topological_order([layer("l", "c", "b"), layer("m", "b", "c")], "a")
