"""The trace and the annotated model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from softneuro_tvm.errors import ModelError
from softneuro_tvm.plan import Plan
from softneuro_tvm.report import annotate, trace, write_annotated, write_trace
from tests.support.made_up_plans import branching, layer, plan


def test_a_trace_holds_every_call_once_in_microseconds() -> None:
    made = branching(6)
    events = trace(made)["traceEvents"]
    calls = [event for event in events if event["ph"] == "X"]
    assert {event["ph"] for event in events} == {"M", "X"}
    assert [event["name"] for event in calls] == ["x", *(f"layer{i}" for i in range(6)), "layer5"]
    assert [event["cat"] for event in calls][:3] == ["adapter", "conv2d", "pool2d"]
    assert {event["tid"] for event in calls if event["cat"] == "adapter"} == {2}
    assert calls[0]["dur"] == pytest.approx(10)
    assert calls[1]["ts"] == pytest.approx(10) and calls[1]["dur"] == pytest.approx(100)
    assert sum(event["dur"] for event in calls) == pytest.approx(made.predicted_s * 1e6)
    assert calls[1]["args"]["layouts"] == "NCHW16c"
    assert calls[1]["args"]["descriptor"] == "cpu:float32:nchw16c/direct/rows=2@layer0"


def test_a_trace_file_is_json(tmp_path: Path) -> None:
    write_trace(branching(3), tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text()) == trace(branching(3))


def model() -> onnx.ModelProto:
    """conv -> batch normalisation -> relu, shape of x -> reshape, and an unnamed softmax."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 8])
    weights = [
        helper.make_tensor("w", TensorProto.FLOAT, [3, 3, 1, 1], [1.0] * 9),
        *(helper.make_tensor(name, TensorProto.FLOAT, [3], [1.0] * 3) for name in "abcd"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["t0"], name="conv", doc_string="written before"),
        helper.make_node("BatchNormalization", ["t0", "a", "b", "c", "d"], ["t1"], name="norm"),
        helper.make_node("Relu", ["t1"], ["t2"], name="relu"),
        helper.make_node("Shape", ["t2"], ["t3"], name="shape"),
        helper.make_node("Reshape", ["t2", "t3"], ["t4"], name="view"),
        helper.make_node("Softmax", ["t4"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


def made_plan() -> Plan:
    return plan(
        (
            replace(layer("conv", 0, "x"), kind="conv2d"),
            replace(layer("view", 1, "conv"), kind="reshape"),
            replace(layer("Softmax_y", 2, "view"), kind="softmax"),
        )
    )


def properties(node: onnx.NodeProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in node.metadata_props}


def test_nodes_tell_their_routine_by_name_or_by_inference() -> None:
    original = model()
    annotated = annotate(original, made_plan())
    onnx.checker.check_model(annotated)
    found = {node.name: properties(node) for node in annotated.graph.node}
    assert found["conv"]["softneuro_tvm.match"] == "name"
    assert found["conv"]["softneuro_tvm.routine"] == "conv2d/direct"
    assert found["conv"]["softneuro_tvm.ms"] == "0.1"
    for name in ("norm", "relu"):
        assert (found[name]["softneuro_tvm.layer"], found[name]["softneuro_tvm.match"]) == ("conv", "inferred")
    assert found["shape"] == {}  # known before the network runs
    assert found["view"]["softneuro_tvm.layer"] == "view"
    assert found["Softmax_y"]["softneuro_tvm.match"] == "name"  # named as the importer names it
    assert annotated.graph.node[0].doc_string.startswith("written before\nconv2d/direct in NCHW16c, 0.1 ms")
    assert original == model()
    assert {entry.key for entry in annotated.metadata_props} == {"softneuro_tvm.model", "softneuro_tvm.predicted_ms"}


def test_annotating_again_replaces_what_was_written() -> None:
    faster = replace(made_plan(), layers=tuple(replace(c, median_s=c.median_s / 2) for c in made_plan().layers))
    node = annotate(annotate(model(), made_plan()), faster).graph.node[0]
    assert properties(node)["softneuro_tvm.ms"] == "0.05"
    assert len(node.metadata_props) == len(properties(node))


def test_a_layer_without_a_node_goes_to_the_node_that_reads_the_same() -> None:
    renamed = replace(made_plan().layers[1], layer="made by the importer", outputs=("made",))
    last = replace(made_plan().layers[2], inputs=("made",))
    annotated = annotate(model(), replace(made_plan(), layers=(made_plan().layers[0], renamed, last)))
    found = {node.name: properties(node) for node in annotated.graph.node}
    assert found["view"]["softneuro_tvm.layer"] == "made by the importer"
    assert found["view"]["softneuro_tvm.match"] == "inferred"
    assert found["relu"]["softneuro_tvm.layer"] == "conv"


def test_covered_layers_name_their_composite() -> None:
    cover = layer("conv+view", 0, "x", covers=("conv", "view"))
    annotated = annotate(model(), plan((cover, layer("Softmax_y", 2, "view"))))
    found = {node.name: properties(node) for node in annotated.graph.node}
    for name in ("conv", "view"):
        assert found[name]["softneuro_tvm.covers"] == "conv + view"


def test_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="give the model that the plan was made for"):
        write_annotated(model(), branching(3), tmp_path / "seen.onnx")
    write_annotated(model(), made_plan(), tmp_path / "seen.onnx")
    assert len(onnx.load(tmp_path / "seen.onnx").graph.node) == 6
