"""Models from files, memory and Relax become graphs of the structure meant, which compute what onnxruntime does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from softneuro_tvm import zoo
from softneuro_tvm.errors import DynamicShapeError, ModelError, UnsupportedOperatorError
from softneuro_tvm.formats import TensorType
from softneuro_tvm.importer import import_model
from softneuro_tvm.reference import evaluate
from tests.support.onnx_models import assert_agrees, model, normal

STRUCTURE = {
    "resnet18": {"conv2d": 20, "pool2d": 2, "reshape": 1, "dense": 1},
    "mobilenet_v2": {"conv2d": 52, "pool2d": 1, "reshape": 1, "dense": 1},
    # the eight products with the gates of squeeze-and-excitation stay
    "mobilenet_v3_large": {"conv2d": 62, "pool2d": 9, "elementwise": 8, "reshape": 1, "dense": 2},
    "shufflenet_v2": {"conv2d": 56, "pool2d": 2, "gather_channels": 29, "reshape": 1, "dense": 1},
    "squeezenet1_1": {"conv2d": 26, "pool2d": 4, "concat": 8, "reshape": 1},
    "digits": {"conv2d": 6, "pool2d": 3, "reshape": 1, "dense": 1},
    "densenet121": {"conv2d": 120, "concat": 58, "elementwise": 62, "pool2d": 5, "reshape": 1, "dense": 1},
    "efficientnet_b0": {"conv2d": 81, "pool2d": 17, "elementwise": 16, "reshape": 1, "dense": 1},
    "unet": {"conv2d": 15, "conv_transpose2d": 3, "pool2d": 3, "concat": 3},
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_zoo(name: str) -> None:
    graph = import_model(f"zoo:{name}")
    assert Counter(layer.kind for layer in graph.layers) == STRUCTURE[name]
    assert_agrees(graph, zoo.model(name), zoo.sample_input(name))


@pytest.mark.parametrize(("name", "foreign"), [("vit_tiny", 1), ("bert_tiny", 1)])
def test_transformers(name: str, foreign: int) -> None:
    graph = import_model(f"zoo:{name}")
    kinds = Counter(layer.kind for layer in graph.layers)
    assert kinds["relax"] == foreign  # the class token, the embedding
    activations = Counter(layer.attributes.activation.name for layer in graph.layers if layer.kind == "dense")
    assert activations["gelu"] == kinds["softmax"]
    assert sum(layer.attributes.residual for layer in graph.layers if layer.kind == "dense") == 2 * kinds["softmax"]
    assert_agrees(graph, zoo.model(name), zoo.sample_input(name))


def test_layers_are_called_after_nodes() -> None:
    names = [layer.name for layer in import_model("zoo:resnet18").layers]
    assert names[:4] == ["conv1", "maxpool", "layer1.0.conv1", "layer1.0.conv2"] and names[-1] == "fc"


def test_import_is_deterministic() -> None:
    assert import_model("zoo:bert_tiny").digest == import_model("zoo:bert_tiny").digest


def test_file_and_batch(tmp_path: Path) -> None:
    path = tmp_path / "digits.onnx"
    zoo.save("digits", path)
    graph = import_model(path)
    assert graph.name == "digits" and graph.digest == import_model(zoo.model("digits")).digest
    batch = import_model(zoo.model("digits", batch=3))
    assert_agrees(batch, zoo.model("digits", batch=3), zoo.sample_input("digits", batch=3))


def test_the_caller_s_model_stays_as_it_is() -> None:
    given = model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 3]}, {"y": TensorProto.FLOAT})
    before = given.SerializeToString()
    import_model(given, input_shapes={"x": [2, 3]})
    assert given.SerializeToString() == before


def test_open_shapes() -> None:
    given = model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 3]}, {"y": TensorProto.FLOAT})
    with pytest.raises(DynamicShapeError, match=r'--input-shapes "x:\[1,3\]"'):
        import_model(given)
    assert_agrees(import_model(given, input_shapes={"x": [2, 3]}), given, {"x": normal(2, 3)})


def test_unsupported_operators() -> None:
    given = model(
        [helper.make_node("Celu", ["x"], ["a"], name="c"), helper.make_node("Relu", ["a"], ["y"])],
        {"x": [1]},
        {"y": TensorProto.FLOAT},
    )
    with pytest.raises(UnsupportedOperatorError, match=r"Celu \(node 'c'\)"):
        import_model(given)


def test_nodes_with_several_results_keep_their_names() -> None:
    """TVM converts a layer normalisation to a tuple of the normalised values and two placeholders."""
    graph = import_model("zoo:bert_tiny")
    names = {layer.name for layer in graph.layers if layer.kind == "layer_norm"}
    assert names and all(name.endswith("LayerNorm") for name in names)


def test_conversion_errors_name_the_node(capfd: pytest.CaptureFixture[str]) -> None:
    given = model(
        [helper.make_node("Reshape", ["x", "s"], ["y"], name="bad")],
        {"x": [2, 3]},
        {"y": TensorProto.FLOAT},
        {"s": np.array([7, 5])},
    )
    with pytest.raises(ModelError, match=r"TVM cannot convert operator Reshape \(node 'bad'\)"):
        import_model(given)
    assert capfd.readouterr().out == ""


def test_outputs_whose_shapes_depend_on_data_are_open() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("NonZero", ["r"], ["y"])]
    given = model(nodes, {"x": [2, 3]}, {"y": TensorProto.INT64})
    graph = import_model(given)
    assert str(graph.tensors[graph.outputs[0]]) == "int64[2x?]" and graph.tensors[graph.outputs[0]].size_bytes == 0
    assert_agrees(graph, given, {"x": normal(2, 3)})


def test_inputs_without_elements() -> None:
    given = model([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 0]}, {"y": TensorProto.FLOAT})
    with pytest.raises(ModelError, match=r'extent 0 at axis 1: there is nothing .* --input-shapes "x:\[1,1\]"'):
        import_model(given)
    unread = model([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 2], "z": [0]}, {"y": TensorProto.FLOAT})
    assert import_model(unread).inputs == ("x", "z")


def test_optional_tensors_are_taken_as_given() -> None:
    given = model([helper.make_node("OptionalGetElement", ["x"], ["y"])], {}, {"y": TensorProto.FLOAT})
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [2, 3])
    given.graph.input.append(helper.make_value_info("x", helper.make_optional_type_proto(tensor)))
    graph = import_model(given)
    assert graph.tensors["x"] == TensorType((2, 3))


def test_sequences_as_outputs_are_refused() -> None:
    given = model([helper.make_node("SequenceConstruct", ["x", "x"], ["y"])], {"x": [2]}, {})
    given.graph.output.append(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, [2]))
    with pytest.raises(ModelError, match="output 'y' of the model is a sequence; only tensors are supported"):
        import_model(given)


def test_inputs_constants_and_repeated_values_as_outputs() -> None:
    given = model(
        [
            helper.make_node("Identity", ["x"], ["same"]),
            helper.make_node("Identity", ["c"], ["constant"]),
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Relu", ["x"], ["once"]),
            helper.make_node("Identity", ["once"], ["again"]),
            helper.make_node("Trilu", ["x"], ["foreign"]),
        ],
        {"x": [2, 3]},
        dict.fromkeys(["same", "constant", "once", "again", "foreign"], TensorProto.FLOAT)
        | {"shape": TensorProto.INT64},
        {"c": normal(4)},
    )
    assert_agrees(import_model(given), given, {"x": normal(2, 3)})


def test_padding_is_folded() -> None:
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        helper.make_node("Conv", ["padded", "w"], ["a"], strides=[2, 2]),
        helper.make_node("AveragePool", ["padded"], ["b"], kernel_shape=[3, 3]),
        helper.make_node("MaxPool", ["padded"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("Conv", ["x", "w"], ["d"], auto_pad="SAME_LOWER", strides=[2, 2]),
    ]
    weights = {"pads": np.array([0, 0, 1, 0, 0, 0, 2, 1]), "w": normal(4, 3, 3, 3)}
    given = model(nodes, {"x": [1, 3, 8, 7]}, dict.fromkeys("abcd", TensorProto.FLOAT), weights)
    graph = import_model(given)
    # only the maximum needs the zeros as they are
    assert Counter(layer.kind for layer in graph.layers) == {"conv2d": 2, "pool2d": 2, "relax": 1}
    assert_agrees(graph, given, {"x": normal(1, 3, 8, 7)})


def test_upsampling() -> None:
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w", "b"], ["a"], strides=[2, 2], group=2, output_padding=[1, 0]),
        helper.make_node("BatchNormalization", ["a", "g", "b", "m", "d"], ["n"]),
        helper.make_node("LeakyRelu", ["n"], ["r"], alpha=0.1),
        helper.make_node("Resize", ["r", "", "scales"], ["s"], mode="linear"),
        helper.make_node("ConvTranspose", ["s", "v"], ["t"], auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("Resize", ["t", "", "", "size"], ["y"], coordinate_transformation_mode="asymmetric"),
        helper.make_node("Resize", ["t", "", "scales"], ["z"], mode="cubic"),
    ]
    weights = {"b": normal(6), "g": normal(6), "m": normal(6), "d": np.abs(normal(6)) + 0.1}
    weights |= {"w": normal(4, 3, 3, 2), "v": normal(6, 5, 4, 4)}
    weights |= {"scales": np.array([1, 1, 1.5, 2], np.float32), "size": np.array([2, 5, 50, 17])}
    given = model(nodes, {"x": [2, 4, 6, 4]}, dict.fromkeys("yz", TensorProto.FLOAT), weights)
    graph = import_model(given)
    kinds = Counter(layer.kind for layer in graph.layers)
    assert kinds == {"conv_transpose2d": 2, "resize2d": 2, "relax": 1}
    assert graph.layers[0].attributes.activation.name == "leaky_relu"
    assert_agrees(graph, given, {"x": normal(2, 4, 6, 4)})


def test_sequences_become_maps() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"], pads=[1, 1]),
        helper.make_node("BatchNormalization", ["a", "g", "b", "m", "d"], ["b1"]),
        helper.make_node("Relu", ["b1"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[3], strides=[2], pads=[1, 0]),
        helper.make_node("Conv", ["p", "w"], ["e"], auto_pad="SAME_UPPER"),
        helper.make_node("Add", ["e", "p"], ["f"]),
        helper.make_node("AveragePool", ["f"], ["y"], kernel_shape=[2], auto_pad="SAME_UPPER"),
    ]
    weights = {"g": normal(4), "b": normal(4), "m": normal(4), "d": np.abs(normal(4)) + 0.1}
    given = model(
        nodes, {"x": [2, 3, 17]}, {"y": TensorProto.FLOAT}, weights | {"v": normal(4, 3, 3), "w": normal(4, 4, 3)}
    )
    graph = import_model(given)
    assert [layer.kind for layer in graph.layers] == ["reshape", "conv2d", "pool2d", "conv2d", "pool2d", "reshape"]
    assert_agrees(graph, given, {"x": normal(2, 3, 17)})


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 6.0), (None, 0.5), (-0.5, None), (0.0, None), (None, None), (np.nan, 0.5)]
)
def test_clip(low: float | None, high: float | None) -> None:
    names = ["x", "" if low is None else "low", "" if high is None else "high"]
    weights = {key: np.array(v, np.float32) for key, v in (("low", low), ("high", high)) if v is not None}
    nodes = [helper.make_node("Clip", names, ["a"]), helper.make_node("Neg", ["a"], ["y"])]
    given = model(nodes, {"x": [40]}, {"y": TensorProto.FLOAT}, weights)
    graph = import_model(given)
    assert [layer.kind for layer in graph.layers] == ["elementwise"]
    assert_agrees(graph, given, {"x": normal(40)})


def test_batch_normalisation_without_a_convolution() -> None:
    weights = {"g": normal(3), "b": normal(3), "m": normal(3), "v": np.abs(normal(3)) + 0.1}
    nodes = [
        helper.make_node("BatchNormalization", ["x", "g", "b", "m", "v"], ["a"], name="bn"),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    given = model(nodes, {"x": [2, 3, 4, 5]}, {"y": TensorProto.FLOAT}, weights)
    graph = import_model(given)
    assert [layer.kind for layer in graph.layers] == ["elementwise"]
    assert_agrees(graph, given, {"x": normal(2, 3, 4, 5)})


def test_foreign_operators_come_in_runs() -> None:
    nodes = [
        helper.make_node("CumSum", ["x", "axis"], ["a"]),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Trilu", ["a"], ["b"]),
        helper.make_node("Greater", ["b", "x"], ["mask"]),
        helper.make_node("Where", ["mask", "b", "conv"], ["y"]),
        helper.make_node("TopK", ["x", "k"], ["top", "where"]),
        helper.make_node("Relu", ["top"], ["z"]),
    ]
    weights = {"axis": np.array(3), "w": normal(3, 3, 3, 3), "k": np.array([2])}
    outputs = {"y": TensorProto.FLOAT, "z": TensorProto.FLOAT, "where": TensorProto.INT64}
    given = model(nodes, {"x": [1, 3, 4, 4]}, outputs, weights)
    graph = import_model(given)
    foreign = [layer for layer in graph.layers if layer.kind == "relax"]
    # the second one waits for the convolution, and takes along what comes before it
    assert sorted(layer.outputs for layer in foreign) == [("TopK_top", "TopK_top_1"), ("Where_y",)]
    assert_agrees(graph, given, {"x": normal(1, 3, 4, 4)})


def test_kernels_of_the_front_end_are_taken_along() -> None:
    nodes = [helper.make_node("Tile", ["x", "r"], ["t"]), helper.make_node("Sign", ["t"], ["y"])]
    given = model(nodes, {"x": [2, 3]}, {"y": TensorProto.FLOAT}, {"r": np.array([2, 1])})
    graph = import_model(given)
    assert [layer.kind for layer in graph.layers] == ["relax", "elementwise"]
    assert len(graph.layers[0].attributes.load().functions) == 2
    assert_agrees(graph, given, {"x": normal(2, 3)})


def test_arithmetic_on_shapes_is_folded() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=1, end=2),
        helper.make_node("Squeeze", ["s"], ["c"]),
        helper.make_node("Range", ["zero", "c", "one"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["minus", "ones"], ["o"], axis=0),
        helper.make_node("Mul", ["o", "one"], ["shape"]),
        helper.make_node("Reshape", ["f", "shape"], ["g"]),
        helper.make_node("Add", ["x", "g"], ["y"]),
    ]
    weights = {"zero": np.array(0), "one": np.array(1), "minus": np.array([-1]), "ones": np.array([1, 1])}
    given = model(nodes, {"x": ["n", 4, 2, 3]}, {"y": TensorProto.FLOAT}, weights)
    graph = import_model(given, input_shapes={"x": [2, 4, 2, 3]})
    assert [layer.kind for layer in graph.layers] == ["elementwise"]
    assert_agrees(graph, given, {"x": normal(2, 4, 2, 3)})


def test_random_numbers_are_not_folded() -> None:
    nodes = [
        helper.make_node("RandomUniform", [], ["r"], shape=[2, 3]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    with pytest.raises(UnsupportedOperatorError, match="RandomUniform"):
        import_model(model(nodes, {"x": [2, 3]}, {"y": TensorProto.FLOAT}))


def test_branches_and_shapes_inside_one_layer() -> None:
    def branch(operator: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(operator, ["r"], ["o"])], operator, [], [out])

    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=branch("Exp"), else_branch=branch("Neg")),
    ]
    given = model(nodes, {"x": [2, 3]}, {"y": TensorProto.FLOAT}, {"zero": np.array(0, np.float32)})
    graph = import_model(given)
    assert_agrees(graph, given, {"x": np.ones((2, 3), np.float32)})
    assert_agrees(graph, given, {"x": -np.ones((2, 3), np.float32)})


def test_data_dependent_shapes_inside_the_model() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["f", "axes"], ["s"], keepdims=0),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    given = model(nodes, {"x": [2, 3]}, {"y": TensorProto.FLOAT}, {"axes": np.array([1])})
    graph = import_model(given)
    assert [layer.kind for layer in graph.layers] == ["relax", "elementwise"]
    assert_agrees(graph, given, {"x": np.array([[0, 1, 2], [3, 0, 0]], np.float32)})


def relax_module(batch: Any) -> Any:
    from tvm import relax

    builder = relax.BlockBuilder()
    x = relax.Var("data", relax.TensorType((batch, 4), "float32"))
    w = relax.Var("w", relax.TensorType((4, 4), "float32"))
    with builder.function("forward", [x, w]):
        with builder.dataflow():
            product = builder.emit(relax.op.nn.relu(builder.emit(relax.op.matmul(x, w))))
            result = builder.emit_output(relax.op.cumsum(product, 1))
        builder.emit_func_output(result)
    return builder.get()


def test_relax_module_with_parameters() -> None:
    import tvm

    module, weight, x = relax_module(2), normal(4, 4), normal(2, 4)
    module["forward"] = module["forward"].with_attr("params", [tvm.runtime.tensor(weight)])
    graph = import_model(module)
    assert graph.inputs == ("data",) and [layer.kind for layer in graph.layers] == ["dense", "relax"]
    (found,) = evaluate(graph, {"data": x}).values()
    np.testing.assert_allclose(found, np.maximum(x @ weight, 0).cumsum(1), rtol=1e-5, atol=1e-6)


def test_relax_module_with_open_shapes() -> None:
    import tvm

    module = relax_module(tvm.tirx.Var("n", "int64"))
    with pytest.raises(DynamicShapeError, match=r'--input-shapes "data:\[1,4\]"'):
        import_model(module)
    with pytest.raises(ModelError, match="no input 'x'; the model's inputs are 'data', 'w'"):
        import_model(module, input_shapes={"x": [1, 4]})
    with pytest.raises(ModelError, match="extent 4 at axis 1, not 5"):
        import_model(module, input_shapes={"data": [3, 5]})
    graph = import_model(module, input_shapes={"data": [3, 4]})
    x, weight = normal(3, 4), normal(4, 4)
    (found,) = evaluate(graph, {"data": x, "w": weight}).values()
    np.testing.assert_allclose(found, np.maximum(x @ weight, 0).cumsum(1), rtol=1e-5, atol=1e-6)


def test_relax_module_without_a_model() -> None:
    import tvm

    with pytest.raises(ModelError, match="needs a Relax function called 'main'; it has none"):
        import_model(tvm.IRModule())
