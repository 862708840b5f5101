"""The model zoo: valid ONNX, torchvision's architectures, sane and deterministic numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from softneuro_tvm import zoo
from softneuro_tvm.errors import ModelError

# Trainable parameters that torchvision documents for each architecture (inception_v3: without the auxiliary head).
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "vgg16": 138_357_544,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_large": 5_483_032,
    "shufflenet_v2": 2_278_604,
    "squeezenet1_1": 1_235_496,
    "densenet121": 7_978_856,
    "inception_v3": 23_834_568,
    "efficientnet_b0": 5_288_548,
    "resnext50_32x4d": 25_028_904,
}
# Networks whose convolutions have biases of their own, not the shifts of folded batch normalisations.
TRUE_BIAS = ("vgg16", "squeezenet1_1")
OUTPUT_SHAPES = {"digits": (1, 10), "bert_tiny": (1, 32, 128), "unet": (1, 2, 128, 128), "yolov5n": (1, 6300, 85)}
SMALL = (
    "digits",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "shufflenet_v2",
    "squeezenet1_1",
    "efficientnet_b0",
    "vit_tiny",
    "bert_tiny",
    "unet",
)
ALL = zoo.names() + zoo.extra_names()


def _run(model: onnx.ModelProto, inputs: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    output: npt.NDArray[np.float32] = session.run(None, inputs)[0]
    return output


def _parameter_count(name: str, graph: onnx.GraphProto) -> int:
    """Counts weights as the unfolded network has them: a folded normalisation had a scale beside its shift."""
    sizes = {
        tensor.name: int(np.prod(tensor.dims))
        for tensor in graph.initializer
        if tensor.name.endswith((".weight", ".bias"))
    }
    folded = 0
    if name not in TRUE_BIAS:
        biases = [node.input[2] for node in graph.node if node.op_type == "Conv" and len(node.input) == 3]
        folded = sum(sizes[bias] for bias in biases if not bias.endswith((".fc1.bias", ".fc2.bias")))
    return sum(sizes.values()) + folded


def test_names_are_the_seed_models() -> None:
    assert set(zoo.names()) == {
        "resnet18",
        "resnet50",
        "vgg16",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "shufflenet_v2",
        "digits",
    }
    assert not set(zoo.names()) & set(zoo.extra_names())


@pytest.mark.parametrize("name", ALL)
def test_model_is_valid_and_has_the_architecture(name: str) -> None:
    model = zoo.model(name)
    assert (model.opset_import[0].version, model.ir_version) == (17, 9)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    if name in PARAMETERS:
        assert _parameter_count(name, model.graph) == PARAMETERS[name]
    onnx.checker.check_model(model)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    shape = tuple(dim.dim_value for dim in inferred.graph.output[0].type.tensor_type.shape.dim)
    assert shape == OUTPUT_SHAPES.get(name, (1, 1000))


@pytest.mark.parametrize("name", SMALL)
def test_outputs_are_sane_and_depend_on_the_input(name: str) -> None:
    output = _run(zoo.model(name, 2), zoo.sample_input(name, 2))
    assert output.shape[0] == 2
    assert np.isfinite(output).all()
    assert 0.3 < output.std() < (20 if name == "digits" else 3)
    first, second = output.reshape(2, -1)
    assert np.corrcoef(first, second)[0, 1] < 0.95


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2", "vit_tiny"])
def test_batch_changes_the_shapes_alone(name: str) -> None:
    inputs = zoo.sample_input(name, 2)
    single = {key: value[1:] for key, value in inputs.items()}
    batched, alone = _run(zoo.model(name, 2), inputs), _run(zoo.model(name), single)
    assert np.abs(batched[1:] - alone).max() < 1e-4


@pytest.mark.parametrize("name", [name for name in SMALL if name != "unet"])
def test_two_builds_are_identical(name: str) -> None:
    assert zoo.model(name).SerializeToString(deterministic=True) == zoo.model(name).SerializeToString(
        deterministic=True
    )
    first, second = zoo.sample_input(name), zoo.sample_input(name)
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])


def test_networks_keep_the_operators_that_importers_must_handle() -> None:
    def operators(name: str) -> set[str]:
        return {node.op_type for node in zoo.model(name).graph.node}

    assert {"BatchNormalization", "HardSwish", "HardSigmoid"} <= operators("mobilenet_v3_large")
    assert "Clip" in operators("mobilenet_v2")
    assert {"Split", "Concat", "Reshape", "Transpose", "ReduceMean"} <= operators("shufflenet_v2")
    assert {"LayerNormalization", "Softmax", "Erf", "Gather", "Expand"} <= operators("vit_tiny")
    assert "BatchNormalization" not in operators("mobilenet_v2")


def test_digits_recognises_the_held_out_images() -> None:
    images, labels = zoo.digits_test()
    assert images.shape == (360, 1, 16, 16)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0.0, 1.0)
    assert np.bincount(labels).min() >= 30
    logits = _run(zoo.model("digits", len(images)), {"input": images})
    assert (logits.argmax(axis=1) == labels).mean() >= 0.98


def test_digits_uses_every_trained_weight() -> None:
    stored = zoo.digits.digits_weights()
    built = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in zoo.model("digits").graph.initializer}
    assert set(built) == set(stored)
    for name, value in stored.items():
        np.testing.assert_array_equal(built[name], value)


def test_save_and_resolve_give_the_model(tmp_path: Path) -> None:
    path = tmp_path / "digits.onnx"
    zoo.save("digits", path)
    assert onnx.load(path) == zoo.model("digits") == zoo.resolve("zoo:digits")


def test_who_changes_a_network_changes_nobody_elses() -> None:
    zoo.resolve("zoo:digits").graph.node[0].name = "changed"
    assert zoo.resolve("zoo:digits") == zoo.model("digits")


def test_unknown_name_suggests_a_close_one() -> None:
    with pytest.raises(ModelError, match="did you mean 'resnet18'"):
        zoo.model("resnet-18")
    with pytest.raises(ModelError, match=r"names\(\) lists them"):
        zoo.sample_input("qqq")
    with pytest.raises(ModelError, match="zoo:NAME"):
        zoo.resolve("resnet18")
    with pytest.raises(ModelError, match="batch must be at least 1"):
        zoo.model("digits", 0)
