"""Writes operators on 8-bit integers as what they mean: dequantise, the operator on floats, quantise. Needs onnx only.

So quantised models have one form, whichever of ONNX's two they are stored in; passes over the graph find the integer
arithmetic again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

logger = logging.getLogger(__name__)


def expand_quantized_operators(model: onnx.ModelProto) -> None:
    """Replaces operators such as ``QLinearConv`` at the top of a model; those that cannot be, stay."""
    graph = model.graph
    nodes = list(graph.node)
    if not any(node.op_type in _RULES for node in nodes):
        return
    expansion = _Expansion(graph)
    expanded = []
    for node in nodes:
        rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx", "com.microsoft") else None
        try:
            expanded += rule(expansion, node) if rule else [node]
        except _StaysError as reason:
            logger.debug("node %r stays: %s", node.name, reason)
            expanded.append(node)
    del graph.node[:]
    graph.node.extend(expanded)


class _StaysError(Exception):
    """An operator cannot be written with floats."""


class _Expansion:
    """The names and constants of a graph, and the nodes that a rule makes."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self._taken = {name for node in graph.node for name in (*node.input, *node.output, node.name)}
        self._taken |= {*self.constants, *(value.name for value in (*graph.input, *graph.output))}

    def fresh(self, base: str) -> str:
        """A name that nothing has."""
        name, count = base, 1
        while name in self._taken:
            name, count = f"{base}_{count}", count + 1
        self._taken.add(name)
        return name

    def array(self, name: str) -> np.ndarray | None:
        """A constant's value."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def constant(self, base: str, value: np.ndarray) -> str:
        """Adds a constant; returns its name."""
        name = self.fresh(base)
        self.constants[name] = numpy_helper.from_array(value, name)
        self.graph.initializer.append(self.constants[name])
        return name

    def dequantize(
        self, made: list[onnx.NodeProto], node: onnx.NodeProto, inputs: Sequence[str], axis: int | None = None
    ) -> str:
        """The numbers that a tensor stands for; constants become float constants.

        Args:
            made: Where to put a node.
            node: That reads the tensor.
            inputs: Tensor, scale, zero point ("" for none).
            axis: Along which there may be several scales; None for one scale.
        """
        tensor, scale, zero_point = (*inputs, "")[:3]
        q, s = self.array(tensor), self.array(scale)
        if s is not None and s.dtype != np.float32:
            raise _StaysError(f"scale {scale!r} is {s.dtype}")
        z = self.array(zero_point) if zero_point else np.zeros((), np.int32)
        if q is None or s is None or z is None:
            if s is None or s.size != 1:
                raise _StaysError(f"{tensor!r} has scales that are not constant, or several")
            name = self.fresh(f"{_name(node)}_{tensor}")
            parameters = [part for part in inputs if part]
            made.append(helper.make_node("DequantizeLinear", parameters, [name], self.fresh(f"{name}_node")))
            return name
        shape = [1] * q.ndim
        if axis is not None:
            shape[axis] = -1
        if any(part.size not in (1, q.shape[axis or 0]) for part in (s, z)):
            raise _StaysError(f"constant {tensor!r} has {s.size} scales")
        centred = q.astype(np.int32) - z.astype(np.int32).reshape(shape if z.size > 1 else ())
        numbers = centred.astype(np.float32) * s.astype(np.float32).reshape(shape if s.size > 1 else ())
        return self.constant(f"{tensor}_numbers", numbers)

    def quantized(
        self, made: list[onnx.NodeProto], node: onnx.NodeProto, float_node: onnx.NodeProto, parameters: Sequence[str]
    ) -> list[onnx.NodeProto]:
        """All nodes of an expansion: those made, the operator, and the quantisation of its output.

        Args:
            made: What comes before.
            node: What is replaced.
            float_node: The operator; it gets its output here.
            parameters: Scale and zero point of the output.
        """
        float_node.name = _name(node)
        float_node.output.append(self.fresh(f"{node.output[0]}_numbers"))
        name = self.fresh(f"{float_node.name}_quantize")
        last = helper.make_node(
            "QuantizeLinear", [float_node.output[0], *(part for part in parameters if part)], [node.output[0]], name
        )
        return [*made, float_node, last]


def _name(node: onnx.NodeProto) -> str:
    return node.name or f"{node.op_type}_{node.output[0]}"


def _attributes(node: onnx.NodeProto, *left_out: str) -> list[onnx.AttributeProto]:
    return [attribute for attribute in node.attribute if attribute.name not in left_out]


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    found = [helper.get_attribute_value(attribute) for attribute in node.attribute if attribute.name == name]
    return found[0] if found else default


def _inputs(node: onnx.NodeProto, count: int) -> list[str]:
    return [*node.input, *[""] * (count - len(node.input))]


def _bias(expansion: _Expansion, name: str, scales: Sequence[str], factor: float) -> str:
    """An int32 bias as numbers: its scale is the product of those of what is multiplied."""
    bias, first, second = expansion.array(name), *map(expansion.array, scales)
    if bias is None or first is None or second is None:
        raise _StaysError(f"bias {name!r} is not constant")
    numbers = bias.astype(np.float64) * first.astype(np.float64) * second.astype(np.float64) * factor
    return expansion.constant(f"{name}_numbers", numbers.astype(np.float32))


def _convolution(expansion: _Expansion, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """``QLinearConv``."""
    x, sx, zx, w, sw, zw, sy, zy, b = _inputs(node, 9)
    made: list[onnx.NodeProto] = []
    inputs = [expansion.dequantize(made, node, (x, sx, zx)), expansion.dequantize(made, node, (w, sw, zw), 0)]
    if b:
        inputs.append(_bias(expansion, b, (sx, sw), 1.0))
    convolution = helper.make_node("Conv", inputs, [])
    convolution.attribute.extend(_attributes(node))
    return expansion.quantized(made, node, convolution, (sy, zy))


def _integer_convolution(expansion: _Expansion, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """``ConvInteger``: sums of small integers, which float32 holds exactly up to 2^24."""
    x, w, zx, zw = _inputs(node, 4)
    if expansion.array(w) is None:
        raise _StaysError(f"weight {w!r} is not constant")
    one = expansion.constant(f"{_name(node)}_scale", np.ones((), np.float32))
    made: list[onnx.NodeProto] = []
    inputs = [expansion.dequantize(made, node, (x, one, zx)), expansion.dequantize(made, node, (w, one, zw), 0)]
    convolution = helper.make_node("Conv", inputs, [expansion.fresh(f"{node.output[0]}_numbers")], _name(node))
    convolution.attribute.extend(_attributes(node))
    name = expansion.fresh(f"{_name(node)}_cast")
    cast = helper.make_node("Cast", list(convolution.output), list(node.output), name, to=TensorProto.INT32)
    return [*made, convolution, cast]


def _product(expansion: _Expansion, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """``QLinearMatMul``; several scales of the second operand are along its last axis."""
    a, sa, za, b, sb, zb, sy, zy = _inputs(node, 8)
    made: list[onnx.NodeProto] = []
    second = expansion.array(b)
    axis = second.ndim - 1 if second is not None else None
    inputs = [expansion.dequantize(made, node, (a, sa, za)), expansion.dequantize(made, node, (b, sb, zb), axis)]
    return expansion.quantized(made, node, helper.make_node("MatMul", inputs, []), (sy, zy))


def _gemm(expansion: _Expansion, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """``QGemm``, whose output may be float32."""
    a, sa, za, b, sb, zb, c, sy, zy = _inputs(node, 9)
    made: list[onnx.NodeProto] = []
    axis = 0 if _attribute(node, "transB", 0) else 1
    inputs = [expansion.dequantize(made, node, (a, sa, za)), expansion.dequantize(made, node, (b, sb, zb), axis)]
    if c:
        inputs.append(_bias(expansion, c, (sa, sb), float(_attribute(node, "alpha", 1.0))))
    gemm = helper.make_node("Gemm", inputs, [])
    gemm.attribute.extend(_attributes(node))
    if sy:
        return expansion.quantized(made, node, gemm, (sy, zy))
    gemm.name = _name(node)
    gemm.output.append(node.output[0])
    return [*made, gemm]


def _binary(operator: str) -> Callable[[_Expansion, onnx.NodeProto], list[onnx.NodeProto]]:
    """``QLinearAdd`` and ``QLinearMul``."""

    def expanded(expansion: _Expansion, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        names = _inputs(node, 8)
        made: list[onnx.NodeProto] = []
        inputs = [expansion.dequantize(made, node, names[start : start + 3]) for start in (0, 3)]
        return expansion.quantized(made, node, helper.make_node(operator, inputs, []), names[6:])

    return expanded


def _unary(operator: str) -> Callable[[_Expansion, onnx.NodeProto], list[onnx.NodeProto]]:
    """``QLinearSigmoid``, ``QLinearAveragePool`` and the like."""

    def expanded(expansion: _Expansion, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        if _attribute(node, "channels_last", 0):
            raise _StaysError("its maps are NHWC")
        names = _inputs(node, 5)
        made: list[onnx.NodeProto] = []
        inputs = [expansion.dequantize(made, node, names[:3])]
        single = helper.make_node(operator, inputs, [])
        single.attribute.extend(_attributes(node, "channels_last", "opset"))
        return expansion.quantized(made, node, single, names[3:])

    return expanded


def _concatenation(expansion: _Expansion, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """``QLinearConcat``."""
    parameters, parts = list(node.input[:2]), list(node.input[2:])
    made: list[onnx.NodeProto] = []
    inputs = [expansion.dequantize(made, node, parts[start : start + 3]) for start in range(0, len(parts), 3)]
    concat = helper.make_node("Concat", inputs, [])
    concat.attribute.extend(_attributes(node))
    return expansion.quantized(made, node, concat, parameters)


_RULES: dict[str, Callable[[_Expansion, onnx.NodeProto], list[onnx.NodeProto]]] = {
    "QLinearConv": _convolution,
    "ConvInteger": _integer_convolution,
    "QLinearMatMul": _product,
    "QGemm": _gemm,
    "QLinearAdd": _binary("Add"),
    "QLinearMul": _binary("Mul"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearLeakyRelu": _unary("LeakyRelu"),
    "QLinearAveragePool": _unary("AveragePool"),
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearSoftmax": _unary("Softmax"),
    "QLinearConcat": _concatenation,
}
