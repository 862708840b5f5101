"""Quantised ONNX models, as onnxruntime's own quantiser writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, samples: Sequence[np.ndarray]) -> None:
        self._samples = iter([{name: sample} for sample in samples])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._samples, None)


def quantized(
    model: onnx.ModelProto,
    samples: Sequence[np.ndarray],
    folder: Path,
    *,
    form: str = "QDQ",
    activations: str = "QUInt8",
    weights: str = "QInt8",
    per_channel: bool = False,
) -> onnx.ModelProto:
    """Quantises a model with one input.

    Weights take seven bits, so that onnxruntime's kernels for CPUs without dot products of bytes cannot saturate.

    Args:
        model: Of floats.
        samples: Inputs that give the ranges.
        folder: For temporary files.
        form: ``QDQ`` or ``QOperator``.
        activations: ``QUInt8`` or ``QInt8``.
        weights: The same for the weights.
        per_channel: Whether each output channel has a scale of its own.
    """
    before, after = folder / "floats.onnx", folder / "integers.onnx"
    onnx.save(model, before)
    quantize_static(
        before,
        after,
        _Samples(model.graph.input[0].name, samples),
        quant_format=QuantFormat[form],
        activation_type=QuantType[activations],
        weight_type=QuantType[weights],
        per_channel=per_channel,
        reduce_range=True,
    )
    return onnx.load(after)


def small_network(seed: int = 0) -> onnx.ModelProto:
    """Input [2, 6, 13, 12]: a stem, a bottleneck with depthwise convolution and residual add, branches that are joined.

    Besides those a convolution with asymmetric padding and ReLU6, pooling of both kinds, a sigmoid gate, and a dense
    layer.
    """
    rng, nodes, constants = np.random.default_rng(seed), list[Any](), list[Any]()

    def constant(value: Any, dtype: str = "float32") -> str:
        name = f"c{len(constants)}"
        constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        result = name or f"{operator.lower()}{len(nodes)}"
        nodes.append(helper.make_node(operator, list(inputs), [result], f"{result}_node", **attributes))
        return result

    def conv(x: str, c: int, k: int, size: int, groups: int = 1, **attributes: Any) -> str:
        weight = rng.standard_normal((k, c // groups, size, size)) * np.sqrt(2 * groups / (c * size * size))
        bias = rng.standard_normal(k) * 0.1
        return node("Conv", x, constant(weight), constant(bias), group=groups, **attributes)

    stem = node("Relu", conv("x", 6, 16, 3, pads=[1, 1, 1, 1]))
    hidden = node("Relu", conv(stem, 16, 24, 1))
    hidden = node("Clip", conv(hidden, 24, 24, 3, 24, pads=[1, 1, 1, 1]), constant(0.0), constant(6.0))
    joined = node("Add", conv(hidden, 24, 16, 1), stem)
    pooled = node("MaxPool", joined, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    left = node("Clip", conv(pooled, 16, 20, 3, pads=[0, 1, 1, 0]), constant(0.0), constant(6.0))
    right = node("AveragePool", conv(pooled, 16, 12, 3, 4, pads=[0, 1, 1, 0]), kernel_shape=[1, 1])
    both = node("Concat", left, right, axis=1)
    gate = node("Sigmoid", conv(node("GlobalAveragePool", both), 32, 32, 1))
    gated = node("Mul", both, gate)
    flat = node("Flatten", node("GlobalAveragePool", gated))
    weight, bias = rng.standard_normal((10, 32)) * 0.3, rng.standard_normal(10) * 0.1
    node("Gemm", flat, constant(weight), constant(bias), transB=1, name="y")
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 6, 13, 12))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 10))],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def samples(count: int, seed: int = 0) -> list[np.ndarray]:
    """Inputs of the small network."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((2, 6, 13, 12)).astype("float32") for _ in range(count)]
