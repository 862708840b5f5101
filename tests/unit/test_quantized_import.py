"""Recognition of quantised layers: the integers of a weight, expansion of operators, passes over conversions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from softneuro_tvm.activations import Activation
from softneuro_tvm.cost_model.records import workload_from_json
from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.int8_weights import integer_rows
from softneuro_tvm.importer.onnx_quantized import expand_quantized_operators
from softneuro_tvm.importer.passes.conversions import move_conversions
from softneuro_tvm.importer.passes.quantized_layers import form_quantized_layers
from softneuro_tvm.layers._quantized import Quantization
from softneuro_tvm.layers.concat import ConcatAttributes
from softneuro_tvm.layers.conv2d import Conv2dAttributes
from softneuro_tvm.layers.elementwise import ElementwiseAttributes
from softneuro_tvm.layers.pool2d import Pool2dAttributes
from softneuro_tvm.layers.quantized_elementwise import QuantizedElementwiseAttributes
from softneuro_tvm.reference import evaluate
from softneuro_tvm.registry import layer_kind, layer_kinds

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("largest", [127, 128, 64, 63, 7, 1])
def test_integers_of_a_weight_are_found(largest: int) -> None:
    integers = RNG.integers(-largest, min(largest, 127) + 1, (6, 5, 3, 3))
    integers[:, 0, 0, 0] = -largest
    integers[2] = 0
    scales = RNG.uniform(0.001, 0.1, 6).astype("float32")
    weight = integers.astype("float32") * scales.reshape(-1, 1, 1, 1)
    found = integer_rows(weight)
    assert found is not None and found[0].dtype == np.int8
    assert np.array_equal(found[0].astype("float32") * found[1].reshape(-1, 1, 1, 1), weight)
    assert found[1][2] == 0


def test_one_scale_for_rows_of_different_size() -> None:
    integers = RNG.integers(-20, 21, (8, 40))
    integers[3, 7] = 127
    scale = np.float32(0.0123)
    found = integer_rows(integers.astype("float32") * scale)
    assert found is not None and np.array_equal(found[0], integers) and (found[1] == scale).all()


@pytest.mark.parametrize(
    "weight",
    [RNG.standard_normal((4, 30)), RNG.integers(-200, 201, (4, 300)) * 0.01, np.full((2, 2), np.nan)],
    ids=["random", "nine bits", "not finite"],
)
def test_other_weights_are_left_alone(weight: np.ndarray) -> None:
    assert integer_rows(weight.astype("float32")) is None


def qlinear(operator: str, inputs: Sequence[str], constants: dict[str, Any], domain: str = "") -> onnx.ModelProto:
    node = helper.make_node(operator, list(inputs), ["y"], domain=domain)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, (1, 2, 4, 4))],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


PARAMETERS = {"s": np.float32(0.1), "z": np.uint8(3), "wz": np.int8(0)}
CONV = ("x", "s", "z", "w", "ws", "wz", "s", "z", "b")


def test_a_convolution_is_written_with_floats() -> None:
    weight, scales = RNG.integers(-127, 128, (3, 2, 1, 1)).astype("int8"), np.array([0.1, 0.2, 0.3], "float32")
    bias = np.array([10, 20, 30], "int32")
    model = qlinear("QLinearConv", CONV, {**PARAMETERS, "w": weight, "ws": scales, "b": bias})
    expand_quantized_operators(model)
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", "Conv", "QuantizeLinear"]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    _, w, b = model.graph.node[1].input
    np.testing.assert_array_equal(constants[w], weight * scales.reshape(-1, 1, 1, 1))
    np.testing.assert_allclose(constants[b], bias * scales * 0.1, rtol=1e-6)
    assert model.graph.node[1].name == "QLinearConv_y" and model.graph.node[2].output[0] == "y"


def test_what_cannot_be_written_with_floats_stays() -> None:
    constants = {**PARAMETERS, "w": np.ones((3, 2, 1, 1), "int8"), "ws": np.ones(2, "float32")}
    model = qlinear("QLinearConv", CONV[:-1], constants)
    expand_quantized_operators(model)
    assert [node.op_type for node in model.graph.node] == ["QLinearConv"]
    model = qlinear("QLinearAdd", ("x", "s", "z", "x", "s", "z", "s", "z"), PARAMETERS, "other.domain")
    expand_quantized_operators(model)
    assert [node.op_type for node in model.graph.node] == ["QLinearAdd"]


HALF, THIRD = Quantization(0.5, 3), Quantization(0.375, -4)
SHAPE = (1, 4, 6, 6)


def conversion(name: str, read: str, write: str, source: Quantization | None, target: Quantization | None) -> Layer:
    dtype = "int8" if target else "float32"
    return Layer(
        name, "quantized_elementwise", QuantizedElementwiseAttributes((), (source,), target, dtype), (read,), (write,)
    )


def graph_of(layers: Sequence[Layer], outputs: Sequence[str], **types: tuple[str, tuple[int, ...]]) -> Graph:
    inputs = tuple(name for name in types if not any(name in layer.outputs for layer in layers))
    return Graph(
        tuple(layers),
        {name: TensorType(shape, dtype) for name, (dtype, shape) in types.items()},
        inputs,
        tuple(outputs),
    )


def same(graph: Graph, changed: Graph) -> bool:
    inputs = {
        name: RNG.integers(-128, 128, graph.tensors[name].shape).astype("int8")
        if graph.tensors[name].dtype == "int8"
        else RNG.standard_normal(graph.tensors[name].shape).astype("float32")
        for name in graph.inputs
    }
    before, after = evaluate(graph, inputs), evaluate(changed, inputs)
    return all(np.abs(before[name].astype("float64") - after[name]).max() == 0 for name in before)


def around(layer: Layer, target: Quantization, shape: tuple[int, ...] = SHAPE) -> Graph:
    """x int8 -> f -> the layer -> g -> y int8."""
    return graph_of(
        [conversion("d", "x", "f", HALF, None), layer, conversion("q", "g", "y", None, target)],
        ["y"],
        x=("int8", SHAPE),
        f=("float32", SHAPE),
        g=("float32", shape),
        y=("int8", shape),
    )


def test_pooling_and_what_keeps_the_scale_work_on_integers() -> None:
    pool = Layer("p", "pool2d", Pool2dAttributes("max", (3, 3), (2, 2), (1, 1, 1, 1)), ("f",), ("g",))
    graph = around(pool, HALF, (1, 4, 3, 3))
    changed = move_conversions(graph)
    assert [layer.kind for layer in changed.layers] == ["quantized_max_pool2d"] and same(graph, changed)
    graph = around(pool, THIRD, (1, 4, 3, 3))
    changed = form_quantized_layers(move_conversions(graph))
    assert [layer.kind for layer in changed.layers] == ["quantized_max_pool2d", "quantized_elementwise"]
    assert same(graph, changed)
    average = Layer("p", "pool2d", Pool2dAttributes("average", (3, 3), (2, 2), (1, 1, 1, 1)), ("f",), ("g",))
    graph = around(average, HALF, (1, 4, 3, 3))
    assert [layer.kind for layer in move_conversions(graph).layers] == [layer.kind for layer in graph.layers]


def test_concatenation_of_different_scales_works_on_integers() -> None:
    layers = [
        conversion("d0", "x0", "f0", HALF, None),
        conversion("d1", "x1", "f1", THIRD, None),
        Layer("c", "concat", ConcatAttributes(1), ("f0", "f1"), ("g",)),
        conversion("q", "g", "y", None, HALF),
    ]
    types = {name: ("int8" if name[0] == "x" else "float32", SHAPE) for name in ("x0", "x1", "f0", "f1")}
    whole = (1, 8, 6, 6)
    graph = graph_of(layers, ["y"], **types, g=("float32", whole), y=("int8", whole))
    changed = form_quantized_layers(move_conversions(graph))
    assert [layer.kind for layer in changed.layers] == ["quantized_elementwise", "concat"]
    assert changed.layers[1].inputs[0] == "x0" and same(graph, changed)
    graph = graph_of(layers[:3], ["g"], **types, g=("float32", whole))
    assert len(move_conversions(graph).layers) == 3  # the floats are wanted


def convolution(activation: Activation, scale: float = 0.01, weight: np.ndarray | None = None) -> Layer:
    integers = RNG.integers(-127, 128, (4, 4, 3, 3))
    integers[:, 0, 0, 0] = 127
    weights = {
        "weight": (integers * np.float32(scale)).astype("float32") if weight is None else weight,
        "bias": (RNG.integers(-500, 500, 4) * np.float32(scale) * 0.5).astype("float32"),
    }
    return Layer(
        "conv", "conv2d", Conv2dAttributes(padding=(1, 1, 1, 1), activation=activation), ("f",), ("g",), weights
    )


@pytest.mark.parametrize(
    ("activation", "low", "high"),
    [
        (Activation("identity"), -128, 127),
        (Activation("relu"), -4, 127),
        (Activation("clip", 0.0, 6.0), -4, 12),
    ],
    ids=["identity", "relu", "clip"],
)
def test_a_convolution_between_conversions_is_quantised(activation: Activation, low: int, high: int) -> None:
    graph = around(convolution(activation), THIRD)
    changed = form_quantized_layers(graph)
    (layer,) = changed.layers
    assert layer.kind == "quantized_conv2d" and (layer.name, layer.outputs) == ("conv", ("y",))
    attributes = layer.attributes
    assert (attributes.input_zero_point, attributes.output_zero_point) == (3, -4)
    assert (attributes.low, attributes.high) == (low, high)
    inputs = {"x": RNG.integers(-128, 128, SHAPE).astype("int8")}
    difference = evaluate(graph, inputs)["y"].astype(int) - evaluate(changed, inputs)["y"]
    assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.01


@pytest.mark.parametrize(
    "layer",
    [convolution(Activation("silu")), convolution(Activation("relu"), weight=RNG.random((4, 4, 3, 3), "float32"))],
    ids=["activation", "weight"],
)
def test_other_convolutions_stay(layer: Layer) -> None:
    graph = around(layer, THIRD)
    assert [layer.kind for layer in form_quantized_layers(graph).layers] == [layer.kind for layer in graph.layers]


def test_channels_without_weights_keep_their_bias() -> None:
    layer = convolution(Activation("identity"))
    layer.weights["weight"][1] = 0.0  # type: ignore[index]
    layer.weights["bias"][1] = 7.7  # type: ignore[index]
    graph = around(layer, THIRD)
    changed = form_quantized_layers(graph)
    assert changed.layers[0].kind == "quantized_conv2d"
    y = evaluate(changed, {"x": np.zeros(SHAPE, "int8")})["y"]
    assert (y[:, 1] == np.rint(7.7 / 0.375) - 4).all()


def test_sums_read_and_write_integers_unless_they_cannot_be_vectors() -> None:
    def graph(operator: str) -> Graph:
        expression = (("add", ("x0", "x1")), (operator, ("t0",)))
        return graph_of(
            [
                conversion("d0", "x0", "f0", HALF, None),
                conversion("d1", "x1", "f1", THIRD, None),
                Layer("e", "elementwise", ElementwiseAttributes(expression), ("f0", "f1"), ("g",)),
                conversion("q", "g", "y", None, HALF),
            ],
            ["y"],
            **{name: ("int8", SHAPE) for name in ("x0", "x1", "y")},
            **{name: ("float32", SHAPE) for name in ("f0", "f1", "g")},
        )

    changed = form_quantized_layers(graph("relu"))
    assert [(layer.kind, layer.inputs) for layer in changed.layers] == [("quantized_elementwise", ("x0", "x1"))]
    assert same(graph("relu"), changed)
    assert len(form_quantized_layers(graph("sin")).layers) == 4


@pytest.mark.parametrize("kind", [name for name in layer_kinds() if name.startswith("quantized")])
def test_stored_workloads_are_read_back(kind: str) -> None:
    for workload in layer_kind(kind).examples():
        found = workload_from_json(workload.json)
        assert found == workload and hash(found) == hash(workload)
        assert layer_kind(kind).flops(found) == layer_kind(kind).flops(workload) > 0
