from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from softneuro_tvm.formats import TensorType
from softneuro_tvm.layer_kind import Operand
from softneuro_tvm.layers.conv_transpose2d import ConvTranspose2dAttributes
from softneuro_tvm.layers.dense import DenseAttributes
from softneuro_tvm.layers.layer_norm import LayerNormAttributes
from softneuro_tvm.layers.matmul import MatmulAttributes
from softneuro_tvm.layers.pool2d import Pool2dAttributes
from softneuro_tvm.layers.reduction import ReductionAttributes
from softneuro_tvm.layers.reshape import ReshapeAttributes
from softneuro_tvm.layers.resize2d import Resize2dAttributes
from softneuro_tvm.layers.slice import SliceAttributes
from softneuro_tvm.layers.softmax import SoftmaxAttributes
from softneuro_tvm.layers.transpose import TransposeAttributes
from softneuro_tvm.registry import layer_kind


def tensor(*shape: int, dtype: str = "float32") -> Operand:
    return Operand(TensorType(shape, dtype))


def constant(value: Any, dtype: str = "float32") -> Operand:
    array = np.asarray(value, dtype)
    return Operand(TensorType(array.shape, dtype), array)


def integers(*values: int) -> Operand:
    return constant(values, "int64")


def pooling(**changes: Any) -> SimpleNamespace:
    values = {
        "pool_size": (3, 3),
        "strides": (2, 2),
        "padding": (1, 1, 1, 1),
        "dilation": (1, 1),
        "ceil_mode": False,
        "count_include_pad": True,
        "layout": "NCHW",
        "out_layout": "NCHW",
        "output_size": (2, 2),
    }
    return SimpleNamespace(**values | changes)


def transposed(**changes: Any) -> SimpleNamespace:
    values = {
        "strides": (2, 2),
        "padding": (1, 0, 1, 1),
        "output_padding": (1, 0),
        "dilation": (1, 1),
        "groups": 1,
        "data_layout": "NCHW",
        "kernel_layout": "IOHW",
        "out_layout": "NCHW",
        "out_dtype": "",
    }
    return SimpleNamespace(**values | changes)


def resizing(rounding: str, **changes: Any) -> SimpleNamespace:
    values = {
        "method": "nearest_neighbor",
        "coordinate_transformation_mode": "half_pixel",
        "rounding_method": rounding,
        "layout": "NCHW",
        "out_dtype": "",
    }
    return SimpleNamespace(**values | changes)


RESIZE = "relax.image.resize2d"
STATISTIC = SimpleNamespace(axis=(-1, -2), keepdims=True)
MATMUL = SimpleNamespace(out_dtype=None)


@pytest.mark.parametrize(
    ("kind", "operator", "attrs", "operands", "attributes"),
    [
        ("dense", "relax.matmul", MATMUL, [tensor(2, 3), constant(np.ones((3, 4)))], DenseAttributes()),
        ("matmul", "relax.matmul", MATMUL, [tensor(2, 3), tensor(3, 4)], MatmulAttributes()),
        *[
            ("pool2d", *case)
            for case in [
                (
                    "relax.nn.max_pool2d",
                    pooling(),
                    [tensor(1, 3, 8, 8)],
                    Pool2dAttributes("max", (3, 3), (2, 2), (1, 1, 1, 1), count_include_pad=True),
                ),
                ("relax.mean", STATISTIC, [tensor(1, 3, 8, 6)], Pool2dAttributes("average", (8, 6))),
                ("relax.max", STATISTIC, [tensor(1, 3, 8, 6)], Pool2dAttributes("max", (8, 6))),
                (
                    "relax.nn.adaptive_avg_pool2d",
                    pooling(),
                    [tensor(1, 3, 8, 6)],
                    Pool2dAttributes("average", (4, 3), (4, 3)),
                ),
            ]
        ],
        (
            *("reduction", "relax.mean", SimpleNamespace(axis=(2, 3), keepdims=False)),
            *([tensor(1, 3, 8, 6)], ReductionAttributes("mean", (2, 3))),
        ),
        (
            *("reduction", "relax.sum", SimpleNamespace(axis=None, keepdims=True)),
            *([tensor(4, 6)], ReductionAttributes("sum", (0, 1), True)),
        ),
        ("reshape", "relax.reshape", None, [tensor(2, 6), integers(3, 4)], ReshapeAttributes((3, 4))),
        ("reshape", "relax.flatten", None, [tensor(2, 6, dtype="bool")], ReshapeAttributes((12,))),
        ("reshape", "relax.nn.batch_flatten", None, [tensor(2, 6, 2)], ReshapeAttributes((2, 12))),
        *[
            ("reshape", operator, SimpleNamespace(axis=axis), [tensor(*shape)], ReshapeAttributes(wanted))
            for operator, axis, shape, wanted in [
                ("relax.expand_dims", (-1, 0), (2, 6), (1, 2, 6, 1)),
                ("relax.squeeze", (-1,), (1, 2, 1), (1, 2)),
                ("relax.squeeze", None, (1, 2, 1), (2,)),
            ]
        ],
        (
            *("transpose", "relax.permute_dims", SimpleNamespace(axes=(0, -1, 1))),
            *([tensor(2, 3, 4)], TransposeAttributes((0, 2, 1))),
        ),
        (
            *("transpose", "relax.permute_dims", SimpleNamespace(axes=None)),
            *([tensor(2, 3, 4)], TransposeAttributes((2, 1, 0))),
        ),
        (
            *("conv_transpose2d", "relax.nn.conv2d_transpose", transposed()),
            *([tensor(1, 3, 8, 8), constant(np.ones((3, 4, 3, 3)))],),
            ConvTranspose2dAttributes((2, 2), (1, 0, 1, 1), (1, 0)),
        ),
        *[
            ("resize2d", RESIZE, attrs, [tensor(1, 3, 8, 8), integers(16, size)], wanted)
            for attrs, size, wanted in [
                (resizing("floor"), 16, Resize2dAttributes((16, 16))),
                (
                    resizing("", coordinate_transformation_mode="asymmetric"),
                    *(20, Resize2dAttributes((16, 20), coordinates="asymmetric")),
                ),
                # without ties all ways of rounding are the same
                (resizing("round"), 16, Resize2dAttributes((16, 16), rounding="round_prefer_floor")),
                (resizing("round", method="linear"), 9, Resize2dAttributes((16, 9), "linear")),
            ]
        ],
        ("softmax", "relax.nn.softmax", SimpleNamespace(axis=-1), [tensor(2, 3, 4)], SoftmaxAttributes(2)),
        (
            *("slice", "relax.strided_slice", None),
            [tensor(1, 8, 6), integers(1, -1), integers(-3, 0), integers(100, -1), integers(2, 1)],
            SliceAttributes((0, 5, 0), (1, 8, 5), (1, 2, 1)),
        ),
    ],
)
def test_recognised_attributes(kind: str, operator: str, attrs: Any, operands: list[Operand], attributes: Any) -> None:
    assert operator in layer_kind(kind).relax_operators
    found = layer_kind(kind).from_relax(operator, attrs, operands)
    assert found is not None and found.attributes == attributes
    assert all(operands[position].value is None for position in found.activations)


@pytest.mark.parametrize(
    ("kind", "operator", "attrs", "operands"),
    [
        ("dense", "relax.matmul", MATMUL, [tensor(3), constant(np.ones((3, 4)))]),
        ("dense", "relax.matmul", MATMUL, [tensor(2, 2, 3), constant(np.ones((2, 3, 4)))]),
        ("dense", "relax.matmul", MATMUL, [tensor(2, 3, dtype="float64"), constant(np.ones((3, 4)), "float64")]),
        ("matmul", "relax.matmul", MATMUL, [tensor(2, 2, 3), constant(np.ones((2, 3, 4)))]),
        ("pool2d", "relax.mean", SimpleNamespace(axis=(2, 3), keepdims=False), [tensor(1, 3, 8, 6)]),
        ("pool2d", "relax.nn.max_pool2d", pooling(layout="NHWC"), [tensor(1, 8, 8, 3)]),
        ("pool2d", "relax.nn.max_pool2d", pooling(pool_size=(1, 1), ceil_mode=True), [tensor(1, 3, 8, 8)]),
        ("pool2d", "relax.nn.adaptive_avg_pool2d", pooling(output_size=(3, 3)), [tensor(1, 3, 8, 8)]),
        *[
            ("conv_transpose2d", "relax.nn.conv2d_transpose", transposed(**changes), operands)
            for changes, operands in [
                ({}, [tensor(1, 3, 8, 8), tensor(3, 4, 3, 3)]),
                ({"kernel_layout": "OIHW"}, [tensor(1, 3, 8, 8), constant(np.ones((3, 4, 3, 3)))]),
                ({"padding": (9, 9, 9, 9)}, [tensor(1, 3, 8, 8), constant(np.ones((3, 4, 3, 3)))]),
            ]
        ],
        *[
            ("resize2d", RESIZE, attrs, [tensor(1, 3, 8, 8), integers(16, 16)])
            for attrs in [
                resizing("floor", method="cubic"),
                resizing("floor", coordinate_transformation_mode="tf_crop_and_resize"),
                resizing("floor", layout="NHWC"),
                # TVM takes the even one of two neighbours
                resizing("round", coordinate_transformation_mode="asymmetric"),
            ]
        ],
        ("reduction", "relax.mean", STATISTIC, [tensor(1, 3, 8, 6)]),
        ("reduction", "relax.sum", STATISTIC, [tensor(4, 6, dtype="int64")]),
        ("reshape", "relax.reshape", None, [tensor(2, 6), tensor(2, dtype="int64")]),
        ("slice", "relax.strided_slice", None, [tensor(8), integers(0), integers(5), integers(0), integers(-1)]),
        ("slice", "relax.strided_slice", None, [tensor(8), integers(0), integers(5), integers(5), integers(1)]),
        ("concat", "relax.concat", SimpleNamespace(axis=0), [tensor(8), constant(np.ones(2))]),
        ("softmax", "relax.nn.softmax", SimpleNamespace(axis=0), [tensor(8, dtype="float64")]),
        ("elementwise", "relax.add", None, [tensor(8, dtype="int64"), tensor(8, dtype="int64")]),
        ("elementwise", "relax.add", None, [constant(np.ones(2)), constant(np.ones(2))]),
    ],
)
def test_refused(kind: str, operator: str, attrs: Any, operands: list[Operand]) -> None:
    assert layer_kind(kind).from_relax(operator, attrs, operands) is None


def test_dense_transposes_the_weight() -> None:
    weight = np.arange(12, dtype="float32").reshape(3, 4)
    found = layer_kind("dense").from_relax("relax.matmul", MATMUL, [tensor(2, 5, 3), constant(weight)])
    assert found is not None
    np.testing.assert_array_equal(found.weights["weight"], weight.T)
    np.testing.assert_array_equal(found.weights["bias"], np.zeros(4))


def test_transposed_convolutions_put_output_channels_first() -> None:
    weight = np.arange(4 * 3 * 2, dtype="float32").reshape(4, 3, 2, 1)
    attrs = transposed(groups=2, padding=(0, 0, 0, 0), output_padding=(0, 0))
    operands = [tensor(1, 4, 5, 5), constant(weight)]
    found = layer_kind("conv_transpose2d").from_relax("relax.nn.conv2d_transpose", attrs, operands)
    assert found is not None and found.weights["weight"].shape == (6, 2, 2, 1)
    np.testing.assert_array_equal(found.weights["weight"][4], weight[2:, 1])  # second group, its second output
    np.testing.assert_array_equal(found.weights["bias"], np.zeros(6))


def test_concat_takes_every_operand() -> None:
    attrs = SimpleNamespace(axis=-3)
    found = layer_kind("concat").from_relax("relax.concat", attrs, [tensor(1, 2, 3, 3), tensor(1, 4, 3, 3)])
    assert found is not None and found.attributes.axis == 1 and found.activations == (0, 1)


def test_layer_norm_ignores_what_is_switched_off() -> None:
    attrs = SimpleNamespace(axes=(-1,), epsilon=1e-6, center=False, scale=True)
    operands = [tensor(2, 3), constant([1, 2, 3]), constant([4, 5, 6])]
    found = layer_kind("layer_norm").from_relax("relax.nn.layer_norm", attrs, operands)
    assert found is not None and found.attributes == LayerNormAttributes((1,), 1e-6)
    assert found.weights["gamma"].tolist() == [1, 2, 3] and found.weights["beta"].tolist() == [0, 0, 0]
    attrs.axes = (0,)
    assert layer_kind("layer_norm").from_relax("relax.nn.layer_norm", attrs, operands) is None


@pytest.mark.parametrize(
    ("operator", "attrs", "operands", "entry", "weight"),
    [
        ("relax.add", None, [tensor(2, 3), tensor(3)], ("add", ("x0", "x1")), None),
        ("relax.multiply", None, [constant(2.5), tensor(2, 3)], ("mul", (2.5, "x0")), None),
        ("relax.add", None, [tensor(2, 3, 4), constant(np.ones((3, 1)))], ("add", ("x0", "w0")), (1, 3, 1)),
        ("relax.divide", None, [tensor(4), constant(np.ones((1, 1)))], ("div", ("x0", "w0")), (1, 1)),
        ("relax.nn.relu", None, [tensor(2, 3)], ("relu", ("x0",)), None),
        ("relax.clip", None, [tensor(2), constant(0, "int64"), constant(6, "int64")], ("clip", ("x0", 0.0, 6.0)), None),
        ("relax.nn.leakyrelu", SimpleNamespace(alpha=0.5), [tensor(2)], ("leaky_relu", ("x0", 0.5)), None),
        (
            *("relax.nn.prelu", SimpleNamespace(axis=1), [tensor(2, 3, 4, 4), constant([1, 2, 3])]),
            *(("prelu", ("x0", "w0")), (1, 3, 1, 1)),
        ),
        (
            *("relax.nn.prelu", SimpleNamespace(axis=3), [tensor(2, 3, 4, 4), constant([0.5])]),
            *(("leaky_relu", ("x0", 0.5)), None),
        ),
    ],
)
def test_elementwise_recognises(
    operator: str, attrs: Any, operands: list[Operand], entry: Any, weight: tuple[int, ...] | None
) -> None:
    found = layer_kind("elementwise").from_relax(operator, attrs, operands)
    assert found is not None and found.attributes.expression == (entry,)
    assert {key: value.shape for key, value in found.weights.items()} == ({"w0": weight} if weight else {})
    assert all(isinstance(arg, str | float) for arg in entry[1])


@pytest.mark.parametrize("operator", layer_kind("elementwise").relax_operators)
def test_every_operator_of_relax_has_a_meaning(operator: str) -> None:
    attrs = SimpleNamespace(alpha=0.1, axis=0, beta=1.0)
    others = {"relax.clip": [constant(-1.0), constant(1.0)], "relax.nn.prelu": [constant([0.1, 0.2, 0.3])]}
    others |= {f"relax.{name}": [tensor(3)] for name in ("add", "subtract", "multiply", "divide", "power")}
    others |= {f"relax.{name}": [tensor(3)] for name in ("maximum", "minimum")}
    kind = layer_kind("elementwise")
    found = kind.from_relax(operator, attrs, [tensor(3), *others.get(operator, [])])
    assert found is not None
    inputs = [np.array([0.5, 1.5, 2.5])] * len(found.activations)
    (y,) = kind.reference(found.attributes, inputs, found.weights)
    assert y.shape == (3,) and np.isfinite(y).all()
