"""Everything that can be wrong with a model: one clear error each, which names the thing and the remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from softneuro_tvm.errors import DynamicShapeError, ModelError, UnsupportedOperatorError
from softneuro_tvm.importer import import_model
from softneuro_tvm.importer.onnx_file import check_not_external, check_structure, load_onnx
from softneuro_tvm.importer.onnx_preflight import check_operators, fix_input_shapes, inline_functions, name_nodes


def model(
    nodes: list[onnx.NodeProto], shape: list[int | str | None] | None, weights: list[onnx.TensorProto] | None = None
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], weights or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def relu(shape: list[int | str | None] | None) -> onnx.ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"])], shape)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.onnx' does not exist; check the path"):
        import_model(tmp_path / "absent.onnx")


def test_unknown_network() -> None:
    with pytest.raises(ModelError, match="did you mean 'resnet18'"):
        import_model("zoo:resnet81")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder"):
        import_model(str(tmp_path))


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.touch()
    with pytest.raises(ModelError, match="is empty"):
        import_model(path)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_truncated_file(tmp_path: Path, kept: float) -> None:
    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    data = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [1, 64], [weight]).SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ModelError, match="damaged or cut off"):
        import_model(path)


@pytest.mark.parametrize("content", [b"PK\x03\x04 some zip archive", b"hello world\n", bytes(range(256))])
def test_other_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"not an ONNX model|holds no graph"):
        check_structure(load_onnx(path), "it")


def test_not_a_model() -> None:
    with pytest.raises(ModelError, match="cannot import a int"):
        import_model(3)


def test_invalid_graph() -> None:
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        check_structure(model([helper.make_node("Relu", ["nowhere"], ["y"])], None), "it")


def test_unsorted_graph() -> None:
    nodes = [helper.make_node("Relu", ["a"], ["y"], name="late"), helper.make_node("Relu", ["x"], ["a"])]
    with pytest.raises(ModelError, match=r"(?s)topologically sorted.*late"):
        check_structure(model(nodes, [1]), "it")


def test_operator_newer_than_checker_is_left_to_the_front_end() -> None:
    check_structure(model([helper.make_node("FromTheFuture", ["x"], ["y"])], [1, 2]), "it")


def external(tmp_path: Path, location: str, length: int | None = None) -> Path:
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    onnx.external_data_helper.set_external_data(weight, location, offset=0, length=length or 64)
    weight.ClearField("raw_data")
    path = tmp_path / "m.onnx"
    path.write_bytes(model([helper.make_node("MatMul", ["x", "w"], ["y"])], [1, 4], [weight]).SerializeToString())
    return path


def test_external_data(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.arange(16, dtype=np.float32).tobytes())
    loaded = load_onnx(external(tmp_path, "w.bin"))
    np.testing.assert_array_equal(
        numpy_helper.to_array(loaded.graph.initializer[0]), np.arange(16, dtype=np.float32).reshape(4, 4)
    )


def test_external_data_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tensor 'w' lies in 'w\.bin', which does not exist"):
        load_onnx(external(tmp_path, "w.bin"))


def test_external_data_cut_off(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 60)
    with pytest.raises(ModelError, match="has 60 of at least 64 bytes"):
        load_onnx(external(tmp_path, "w.bin"))


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "sub/../../w.bin"])
def test_external_data_outside_folder(tmp_path: Path, location: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "w.bin").write_bytes(b"\0" * 64)
    with pytest.raises(ModelError, match="outside the model's folder; refused"):
        load_onnx(external(inner, location))


def test_external_data_behind_a_link(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "w.bin").write_bytes(b"\0" * 64)
    (inner / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(ModelError, match="outside the model's folder; refused"):
        load_onnx(external(inner, "w.bin"))


def test_external_data_of_a_model_in_memory(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 64)
    unloaded = onnx.load_model(str(external(tmp_path, "w.bin")), load_external_data=False)
    with pytest.raises(ModelError, match="give the path of the file"):
        check_not_external(unloaded, "the model")


def test_unsupported_operators_are_listed_together() -> None:
    body = helper.make_graph(
        [helper.make_node("Bernoulli", ["x"], ["b"], name="inside")],
        "body",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
    )
    wrong = model(
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("Celu", ["a"], ["c"], name="first"),
            helper.make_node("If", ["x"], ["d"], name="if", then_branch=body, else_branch=body),
            helper.make_node("Celu", ["c"], ["e"]),
            helper.make_node("Relu", ["e"], ["y"], name="foreign", domain="acme"),
        ],
        [1, 2],
    )
    name_nodes(wrong.graph)
    with pytest.raises(UnsupportedOperatorError) as caught:
        check_operators(wrong.graph, {"Relu"})
    assert caught.value.operators == (
        ("Celu", "first"),
        ("Bernoulli", "inside"),
        ("Bernoulli", "inside_1"),
        ("Celu", "Celu_e"),
        ("acme::Relu", "foreign"),
    )


def test_names_are_unique_and_readable() -> None:
    named = model(
        [
            helper.make_node("Relu", ["x"], ["a"], name="act"),
            helper.make_node("Relu", ["a"], ["b"], name="act"),
            helper.make_node("Relu", ["b"], ["y"]),
        ],
        [1],
    )
    name_nodes(named.graph)
    assert [node.name for node in named.graph.node] == ["act", "act_1", "Relu_y"]


def test_functions_are_inlined() -> None:
    twice = helper.make_function(
        "acme", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    whole = model([helper.make_node("Twice", ["x"], ["y"], domain="acme")], [1, 2])
    whole.functions.append(twice)
    whole.opset_import.append(helper.make_opsetid("acme", 1))
    assert [node.op_type for node in inline_functions(whole).graph.node] == ["Add"]


def test_open_shapes_are_listed_with_the_remedy() -> None:
    with pytest.raises(DynamicShapeError) as caught:
        fix_input_shapes(relu(["batch", 3, None, 224]).graph, {})
    assert "input 'x', axis 0 (batch), 2" in str(caught.value)
    assert '--input-shapes "x:[1,3,1,224]"' in str(caught.value)


def test_unknown_rank() -> None:
    with pytest.raises(DynamicShapeError, match="its rank is unknown"):
        fix_input_shapes(relu(None).graph, {})


def test_given_shapes_settle_named_dimensions_everywhere() -> None:
    whole = relu(["n", "h"])
    whole.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 5]))
    fix_input_shapes(whole.graph, {"x": [4, 7]})
    shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in whole.graph.input]
    assert shapes == [[4, 7], [4, 5]]


def test_given_shape_for_unknown_rank() -> None:
    whole = relu(None)
    fix_input_shapes(whole.graph, {"x": [4, 7]})
    assert [dim.dim_value for dim in whole.graph.input[0].type.tensor_type.shape.dim] == [4, 7]


def test_wrong_input_name() -> None:
    with pytest.raises(ModelError, match="no input 'data'; the model's inputs are 'x'"):
        fix_input_shapes(relu(["n", 2]).graph, {"data": [1, 2]})


def test_wrong_rank() -> None:
    with pytest.raises(ModelError, match=r"'x' has 2 axes, but the shape \[1, 2, 3\] has 3"):
        fix_input_shapes(relu(["n", 2]).graph, {"x": [1, 2, 3]})


@pytest.mark.parametrize("shape", [[0, 2], [-1, 2]])
def test_extents_below_one(shape: list[int]) -> None:
    with pytest.raises(ModelError, match="extents are 1 or more"):
        fix_input_shapes(relu(["n", 2]).graph, {"x": shape})


def test_input_that_is_no_tensor() -> None:
    whole = relu([1])
    whole.graph.input.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [1]))
    with pytest.raises(ModelError, match="input 's' is a sequence_type; only tensors are supported"):
        fix_input_shapes(whole.graph, {})
