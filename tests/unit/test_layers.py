from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from softneuro_tvm.activations import Activation
from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers._numpy import FUNCTIONS
from softneuro_tvm.layers.conv2d import Conv2dAttributes
from softneuro_tvm.layers.elementwise import ElementwiseAttributes, evaluate, merge, unify_inputs
from softneuro_tvm.layers.matmul import MatmulAttributes
from softneuro_tvm.layers.relax import weight_names
from softneuro_tvm.layers.resize2d import Resize2dAttributes
from softneuro_tvm.registry import layer_kind, layer_kinds

WITH_REFERENCE = [name for name, kind in layer_kinds().items() if kind.has_reference]


def wide(array: np.ndarray) -> np.ndarray:
    return array.astype("float64") if array.dtype.kind == "f" else array


def expected(workload: Workload, inputs: Sequence[np.ndarray], weights: dict[str, np.ndarray]) -> np.ndarray:
    kind = layer_kind(workload.kind)
    exact = {name: wide(w) for name, w in weights.items()}
    return kind.reference(workload.attributes, [wide(x) for x in inputs], exact)[0]


def examples(kind: str) -> list[Any]:
    return [pytest.param(w, id=f"{i}: {w}") for i, w in enumerate(layer_kind(kind).examples())]


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_reference_has_the_output_types(name: str) -> None:
    kind = layer_kind(name)
    found = list(kind.examples())
    assert len(found) >= 5 and len({w.digest for w in found}) == len(found)
    for workload in found:
        inputs, weights = kind.sample(workload)
        outputs = kind.reference(
            workload.attributes, [wide(x) for x in inputs], {key: wide(w) for key, w in weights.items()}
        )
        assert [y.shape for y in outputs] == [t.shape for t in workload.outputs]
        for y, tensor in zip(outputs, workload.outputs, strict=True):
            assert y.dtype == ("float64" if np.dtype(tensor.dtype).kind == "f" else tensor.dtype)
            assert np.isfinite(y).all()


@pytest.mark.parametrize(
    "name",
    ["conv2d", "conv_transpose2d", "resize2d", "dense", "pool2d", "elementwise", "softmax", "layer_norm", "concat"],
)
def test_examples_cover_batches_and_uneven_channels(name: str) -> None:
    shapes = [w.outputs[0].shape for w in layer_kind(name).examples()]
    assert any(shape[0] > 1 for shape in shapes) and any(shape[-1] % 4 for shape in shapes)


# Against onnxruntime


def run_onnx(
    operator: str,
    inputs: Sequence[np.ndarray],
    constants: Sequence[np.ndarray] = (),
    opset: int = 18,
    **attributes: Any,
) -> np.ndarray:
    names = [f"x{i}" for i in range(len(inputs))], [f"c{i}" for i in range(len(constants))]
    graph = helper.make_graph(
        [helper.make_node(operator, [*names[0], *names[1]], ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, x.shape) for n, x in zip(names[0], inputs, strict=True)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(c, n) for n, c in zip(names[1], constants, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, dict(zip(names[0], inputs, strict=True)))[0]
    return result


def assert_close(found: np.ndarray, reference: np.ndarray) -> None:
    assert found.shape == reference.shape
    np.testing.assert_allclose(found, reference, rtol=0, atol=3e-6 * max(1.0, float(np.abs(reference).max())))


def with_epilogue(attributes: Any, y: np.ndarray, inputs: list[np.ndarray], slope: np.ndarray | None) -> np.ndarray:
    before, after = (inputs[1] if attributes.residual == place else 0.0 for place in (True, "after"))
    return attributes.activation.reference(y + before, slope) + after


@pytest.mark.parametrize("workload", examples("conv2d"))
def test_conv2d_agrees(workload: Workload) -> None:
    inputs, weights = layer_kind("conv2d").sample(workload)
    a = workload.attributes
    y = run_onnx(
        *("Conv", inputs[:1], [weights["weight"], weights["bias"]]),
        **{"strides": a.strides, "pads": a.padding, "dilations": a.dilation, "group": a.groups},
    ).astype("float64")
    slope = weights["slope"].reshape(-1, 1, 1) if "slope" in weights else None
    assert_close(with_epilogue(a, y, inputs, slope), expected(workload, inputs, weights))


@pytest.mark.parametrize("workload", examples("conv_transpose2d"))
def test_conv_transpose2d_agrees(workload: Workload) -> None:
    inputs, weights = layer_kind("conv_transpose2d").sample(workload)
    a = workload.attributes
    k, c_group, *kernel = weights["weight"].shape
    grouped = weights["weight"].reshape(a.groups, k // a.groups, c_group, *kernel)
    iohw = np.ascontiguousarray(grouped.swapaxes(1, 2).reshape(-1, k // a.groups, *kernel))
    y = run_onnx(
        *("ConvTranspose", inputs[:1], [iohw, weights["bias"]]),
        **{"strides": a.strides, "pads": a.padding, "dilations": a.dilation, "group": a.groups},
        output_padding=a.output_padding,
    ).astype("float64")
    slope = weights["slope"].reshape(-1, 1, 1) if "slope" in weights else None
    assert_close(with_epilogue(a, y, inputs, slope), expected(workload, inputs, weights))


@pytest.mark.parametrize("workload", examples("resize2d"))
def test_resize2d_agrees(workload: Workload) -> None:
    inputs, weights = layer_kind("resize2d").sample(workload)
    a, shape = workload.attributes, workload.outputs[0].shape
    modes = {"mode": a.method, "coordinate_transformation_mode": a.coordinates}
    if a.method == "nearest":
        modes["nearest_mode"] = a.rounding
    opset = 11 if a.coordinates == "tf_half_pixel_for_nn" else 18  # removed in 13
    nothing = np.zeros(0, "float32")
    constants = [nothing, nothing, np.array(shape, "int64")]
    assert_close(run_onnx("Resize", inputs, constants, opset, **modes), expected(workload, inputs, weights))


def test_resize2d_places_are_exact() -> None:
    """Thirds in float32 would take a neighbour here and there."""
    taps = Resize2dAttributes((3, 3 * 333), coordinates="asymmetric").taps(1, 333)
    np.testing.assert_array_equal(taps.low, np.repeat(np.arange(333), 3))
    linear = Resize2dAttributes((1, 5), "linear", "align_corners")
    taps = linear.taps(1, 3)
    assert taps.low.tolist() == [0, 0, 1, 1, 2] and taps.high.tolist() == [1, 1, 2, 2, 2]
    assert taps.fraction.tolist() == [0, 0.5, 0, 0.5, 0] and linear.taps(0, 7).low.tolist() == [0]


@pytest.mark.parametrize("workload", [p for p in examples("dense") if p.values[0].inputs[0].rank == 2])
def test_dense_agrees(workload: Workload) -> None:
    inputs, weights = layer_kind("dense").sample(workload)
    y = run_onnx("Gemm", inputs[:1], [weights["weight"], weights["bias"]], transB=1).astype("float64")
    y = with_epilogue(workload.attributes, y, inputs, weights.get("slope"))
    assert_close(y, expected(workload, inputs, weights))


@pytest.mark.parametrize("workload", examples("matmul"))
def test_matmul_agrees(workload: Workload) -> None:
    inputs, weights = layer_kind("matmul").sample(workload)
    a, b = inputs
    a = a.swapaxes(-1, -2) if workload.attributes.transpose_a else a
    b = b.swapaxes(-1, -2) if workload.attributes.transpose_b else b
    y = run_onnx("MatMul", [np.ascontiguousarray(a), np.ascontiguousarray(b)])
    assert_close(y, expected(workload, inputs, weights))


@pytest.mark.parametrize("workload", examples("pool2d"))
def test_pool2d_agrees(workload: Workload) -> None:
    inputs, weights = layer_kind("pool2d").sample(workload)
    a = workload.attributes
    options = {"kernel_shape": a.kernel, "strides": a.strides, "pads": a.padding, "ceil_mode": int(a.ceil_mode)}
    if a.mode == "max":
        y = run_onnx("MaxPool", inputs, dilations=a.dilation, **options)
    else:
        y = run_onnx("AveragePool", inputs, opset=19, count_include_pad=int(a.count_include_pad), **options)
    assert_close(y, expected(workload, inputs, weights))


@pytest.mark.parametrize("workload", examples("softmax"))
def test_softmax_agrees(workload: Workload) -> None:
    inputs, weights = layer_kind("softmax").sample(workload)
    assert_close(run_onnx("Softmax", inputs, axis=workload.attributes.axis), expected(workload, inputs, weights))


@pytest.mark.parametrize("workload", examples("layer_norm"))
def test_layer_norm_agrees(workload: Workload) -> None:
    inputs, weights = layer_kind("layer_norm").sample(workload)
    a = workload.attributes
    constants = [weights["gamma"], weights["beta"]]
    y = run_onnx("LayerNormalization", inputs, constants, axis=a.axes[0], epsilon=a.epsilon)
    assert_close(y, expected(workload, inputs, weights))


@pytest.mark.parametrize("workload", examples("reduction"))
def test_reduction_agrees(workload: Workload) -> None:
    inputs, weights = layer_kind("reduction").sample(workload)
    a = workload.attributes
    axes = np.array(a.axes, "int64")
    y = run_onnx(f"Reduce{a.operation.capitalize()}", inputs, [axes], keepdims=int(a.keepdims))
    assert_close(y, expected(workload, inputs, weights))


@pytest.mark.parametrize(
    ("name", "operator", "numbers", "attributes"),
    [
        ("tanh", "Tanh", (), {}),
        ("sigmoid", "Sigmoid", (), {}),
        ("erf", "Erf", (), {}),
        ("round", "Round", (), {}),
        ("sign", "Sign", (), {}),
        ("softplus", "Softplus", (), {}),
        ("selu", "Selu", (), {}),
        ("hard_swish", "HardSwish", (), {}),
        ("elu", "Elu", (0.7,), {"alpha": 0.7}),
        ("leaky_relu", "LeakyRelu", (0.2,), {"alpha": 0.2}),
        ("hard_sigmoid", "HardSigmoid", (0.3, 0.4), {"alpha": 0.3, "beta": 0.4}),
        ("gelu", "Gelu", (), {"opset": 20}),
        ("gelu_tanh", "Gelu", (), {"opset": 20, "approximate": "tanh"}),
    ],
)
def test_elementwise_operator_agrees(
    name: str, operator: str, numbers: tuple[float, ...], attributes: dict[str, Any]
) -> None:
    x = np.linspace(-5, 5, 41, dtype="float32")
    assert_close(run_onnx(operator, [x], **attributes), FUNCTIONS[name](x.astype("float64"), *numbers))


@pytest.mark.parametrize("name", sorted(set(Activation.names()) & set(FUNCTIONS) - {"prelu"}))
def test_activations_and_elementwise_operators_mean_the_same(name: str) -> None:
    x = np.linspace(-5, 5, 41)
    numbers = {"clip": (-1.0, 2.0), "leaky_relu": (0.2,), "hard_sigmoid": (0.3, 0.4)}.get(name, ())
    np.testing.assert_allclose(FUNCTIONS[name](x, *numbers), Activation(name, *numbers).reference(x), atol=1e-15)


# Expressions


def test_evaluate_walks_the_entries() -> None:
    expression = (("mul", ("x0", "w0")), ("add", ("t0", "x1")), ("sub", ("t1", 1.0)), ("mul", ("t2", "t0")))
    table = {"mul": lambda a, b: a * b, "add": lambda a, b: a + b, "sub": lambda a, b: a - b}
    assert evaluate(expression, [3, 5], [2], table) == (3 * 2 + 5 - 1) * 6


def test_merge_substitutes_the_producer() -> None:
    first = ElementwiseAttributes((("mul", ("x0", "w0")), ("sub", ("t0", "x1"))))
    second = ElementwiseAttributes((("add", ("x1", "w0")), ("div", ("x0", "t0")), ("mul", ("t1", "x2"))))
    merged = merge(first, second, 1)
    assert (merged.count("x"), merged.count("w")) == (4, 2)
    rng = np.random.default_rng(0)
    a, b, c, d, v, w = (rng.uniform(1, 2, (2, 3)) for _ in range(6))
    whole = evaluate(merged.expression, [a, b, c, d], [v, w], FUNCTIONS)
    inner = evaluate(first.expression, [b, c], [v], FUNCTIONS)
    np.testing.assert_array_equal(whole, evaluate(second.expression, [a, inner, d], [w], FUNCTIONS))


def test_unify_inputs_makes_a_swish_of_one_input() -> None:
    sigmoid = ElementwiseAttributes((("sigmoid", ("x0",)),))
    product = ElementwiseAttributes((("mul", ("x0", "x1")),))
    merged, tensors = unify_inputs(merge(sigmoid, product, 1), ["a", "a"])
    assert tensors == ("a",)
    assert merged.expression == (("sigmoid", ("x0",)), ("mul", ("x0", "t0")))


# Layers as such


def test_weights_of_a_fall_through_layer_are_in_numerical_order() -> None:
    assert weight_names(12)[9:] == ("w9", "w10", "w11")


def test_flops_count_multiply_adds_twice() -> None:
    kind = layer_kind("conv2d")
    weights = {"weight": TensorType((8, 2, 3, 3)), "bias": TensorType((8,))}
    workload = kind.workload(Conv2dAttributes(padding=(1, 1, 1, 1), groups=2), [TensorType((2, 4, 5, 5))], weights)
    assert kind.flops(workload) == 2 * math.prod((2, 8, 5, 5)) * 2 * 9
    product = layer_kind("matmul").workload(
        MatmulAttributes(transpose_a=True), [TensorType((7, 3)), TensorType((7, 5))]
    )
    assert layer_kind("matmul").flops(product) == 2 * 3 * 5 * 7
