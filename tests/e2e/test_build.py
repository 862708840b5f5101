"""Whole networks, built from arbitrary mixtures of routines and layouts, against onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import softneuro_tvm as sn
from softneuro_tvm import zoo
from softneuro_tvm.builder import build
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.errors import VerificationError
from softneuro_tvm.selection import select
from softneuro_tvm.verification import relative_error
from tests.support import made_up


def mixture(source: Any, seed: int, threads: int) -> tuple[Any, Any, Any]:
    """Model, plan by made-up times, module."""
    model, device = sn.load(source), sn.host_device(threads)
    candidates = enumerate_candidates(model.graph, device)
    plan = select(model.graph, candidates, made_up.profile(candidates.all(), seed), device)
    return model, plan, build(model.graph, plan, device)


@pytest.mark.parametrize(
    ("name", "seed", "threads"),
    [
        ("digits", 0, 1),
        ("digits", 1, 2),
        ("digits", 2, 1),
        ("mobilenet_v3_large", 3, 2),
        ("shufflenet_v2", 4, 1),
        ("squeezenet1_1", 5, 2),
        ("vit_tiny", 6, 2),
        ("bert_tiny", 7, 1),
    ],
)
def test_a_mixture_agrees_with_onnxruntime(name: str, seed: int, threads: int) -> None:
    model, plan, module = mixture(f"zoo:{name}", seed, threads)
    layouts = {port.layout for choice in plan.layers for port in choice.variant.outputs}
    assert len(layouts) > 1
    assert sn.verify(model, plan, module).error < 1e-3


def odd_model() -> onnx.ModelProto:
    """Batch 3, uneven channels, two inputs, three outputs: one an input of another layer, one without any layer."""
    rng = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype("float32") * 0.2, name)

    def value(name: str, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], name="first", pads=[1, 0, 2, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w2"], ["d"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["d", "r"], ["s"], name="sum"),
        helper.make_node("Mul", ["s", "z"], ["m"], name="scale"),
        helper.make_node("CumSum", ["m", "axis"], ["q"], name="cumsum"),
        helper.make_node("Identity", ["z"], ["same"], name="same"),
    ]
    weights = [constant("w1", 13, 5, 3, 3), constant("b1", 13), constant("w2", 13, 13, 3, 3)]
    weights.append(numpy_helper.from_array(np.array(1, "int64"), "axis"))
    graph = helper.make_graph(
        nodes,
        "odd",
        [value("x", 3, 5, 7, 6), value("z", 3, 13, 1, 1)],
        [value("r", 3, 13, 8, 5), value("q", 3, 13, 8, 5), value("same", 3, 13, 1, 1)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("seed", range(3))
def test_several_inputs_outputs_and_a_fall_through(seed: int, tmp_path: Path) -> None:
    model, plan, module = mixture(odd_model(), seed, 1)
    assert sn.verify(model, plan, module).error < 1e-5
    module.export(tmp_path / "odd.so")
    loaded = sn.load_module(tmp_path / "odd.so")
    assert [port["name"] for port in loaded.manifest["outputs"]] == ["r", "q", "same"]
    assert sn.verify(model, plan, loaded).error < 1e-5


def test_a_relax_module_is_compared_with_plain_tvm() -> None:
    from tvm.relax.frontend.onnx import from_onnx

    model, plan, module = mixture(from_onnx(zoo.model("digits"), sanitize_input_names=False), 0, 1)
    agreement = sn.verify(model, plan, module)
    assert agreement.reference == "plain TVM"
    assert agreement.error < 1e-5


def test_a_wrong_module_is_found() -> None:
    model, plan, _ = mixture("zoo:digits", 0, 1)

    class Wrong:
        def tensors(self, inputs: Any, named: Any) -> Any:
            return named

        def run(self, tensors: Any) -> list[np.ndarray]:
            return [np.zeros((1, 10), "float32")]

    with pytest.raises(VerificationError, match="differs from onnxruntime"):
        sn.verify(model, plan, Wrong())  # type: ignore[arg-type]


def test_relative_error() -> None:
    one, two = np.array([1.0, np.nan]), np.array([1.1, np.nan])
    assert relative_error([two], [one]) == pytest.approx(0.1)
    assert relative_error([np.array([1.0, 2.0])], [one]) == float("inf")
