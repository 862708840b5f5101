"""Quantised models in both of ONNX's forms: integer layers, and results that agree with onnxruntime's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import softneuro_tvm as sn
from softneuro_tvm import reference, zoo
from softneuro_tvm.builder import build
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.selection import select
from tests.support import made_up
from tests.support.quantized_models import quantized, samples, small_network

FORMS = [("QDQ", "QUInt8", False), ("QDQ", "QInt8", True), ("QOperator", "QUInt8", True), ("QOperator", "QInt8", False)]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def output_step(model: onnx.ModelProto) -> float:
    """The scale of the last integers."""
    scales = {tensor.name: tensor for tensor in model.graph.initializer}
    last = next(node for node in model.graph.node if node.output[0] == model.graph.output[0].name)
    assert last.op_type == "DequantizeLinear"
    return float(numpy_helper.to_array(scales[last.input[1]]))


def mixture(model: sn.Model, seed: int, threads: int) -> tuple[Any, Any]:
    """A plan by made-up times, and its module."""
    device = sn.host_device(threads)
    candidates = enumerate_candidates(model.graph, device)
    plan = select(model.graph, candidates, made_up.profile(candidates.all(), seed), device)
    return plan, build(model.graph, plan, device)


@pytest.mark.parametrize(("form", "activations", "per_channel"), FORMS)
def test_a_small_network_agrees_with_onnxruntime(
    form: str, activations: str, per_channel: bool, tmp_path: Path
) -> None:
    proto = quantized(
        small_network(), samples(4), tmp_path, form=form, activations=activations, per_channel=per_channel
    )
    model = sn.load(proto)
    kinds = Counter(layer.kind for layer in model.graph.layers)
    assert kinds["quantized_conv2d"] == 7 and kinds["quantized_dense"] == 1 and kinds["quantized_max_pool2d"] == 1
    assert not kinds.keys() & {"conv2d", "dense", "elementwise", "relax"}
    plan, module = mixture(model, seed=len(form), threads=1 + per_channel)
    there, step = session(proto), output_step(proto)
    for x in samples(4, seed=1):
        (expected,) = there.run(None, {"x": x})
        (found,) = module.run(module.tensors([], {"x": x}))
        assert np.abs(found - expected).max() <= 2.01 * step
        assert np.ptp(expected) > 40 * step
    sn.verify(model, plan, module)


@pytest.mark.parametrize(("form", "activations", "per_channel"), FORMS[1:3])
def test_digits_are_read_as_by_onnxruntime(form: str, activations: str, per_channel: bool, tmp_path: Path) -> None:
    images, labels = zoo.digits_test()
    calibration = [images[i : i + 1] for i in range(40)]
    proto = quantized(
        zoo.model("digits"), calibration, tmp_path, form=form, activations=activations, per_channel=per_channel
    )
    model = sn.load(proto)
    kinds = Counter(layer.kind for layer in model.graph.layers)
    assert kinds["quantized_conv2d"] == 6 and kinds["quantized_dense"] == 1 and not kinds.keys() & {"conv2d", "dense"}
    _, module = mixture(model, seed=3, threads=1)
    there = session(proto)
    expected = np.concatenate([there.run(None, {"input": images[i : i + 1]})[0] for i in range(len(images))])
    found = np.concatenate(
        [module.run(module.tensors([], {"input": images[i : i + 1]}))[0] for i in range(len(images))]
    )
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.995
    assert (found.argmax(1) == labels).mean() > 0.95


def test_weights_that_are_no_signed_bytes_stay_numbers(tmp_path: Path) -> None:
    proto = quantized(small_network(), samples(2), tmp_path, weights="QUInt8")
    graph = sn.load(proto).graph
    kinds = Counter(layer.kind for layer in graph.layers)
    assert kinds["conv2d"] + kinds["quantized_conv2d"] == 7
    x = samples(1, seed=1)[0]
    (expected,) = session(proto).run(None, {"x": x})
    assert np.abs(reference.evaluate(graph, {"x": x})["y"] - expected).max() <= 2.01 * output_step(proto)
