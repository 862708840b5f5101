"""Arithmetic on every element: expressions of any size over inputs, constants and numbers, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind, Operand, Recognised
from softneuro_tvm.layers._numpy import FUNCTIONS, normalise_axis
from softneuro_tvm.layers._te import broadcast, functions

Argument = str | float
Expression = tuple[tuple[str, tuple[Argument, ...]], ...]
"""Entries (operator, arguments) in order of evaluation; the last one is the result. See `ElementwiseAttributes`."""

_BINARY = {
    "relax.add": "add",
    "relax.subtract": "sub",
    "relax.multiply": "mul",
    "relax.divide": "div",
    "relax.maximum": "maximum",
    "relax.minimum": "minimum",
    "relax.power": "pow",
}
_UNARY = {
    "relax.negative": "neg",
    "relax.nn.relu": "relu",
    "relax.nn.silu": "silu",
    "relax.nn.gelu": "gelu",
    "relax.nn.gelu_tanh": "gelu_tanh",
    "relax.nn.selu": "selu",
    **{
        f"relax.{name}": name
        for name in (
            *("abs", "exp", "log", "sqrt", "rsqrt", "erf", "tanh", "sigmoid", "floor", "ceil", "round", "trunc"),
            *("sign", "sin", "cos", "square"),
        )
    },
}


@dataclass(frozen=True)
class ElementwiseAttributes:
    """Attributes of an elementwise layer.

    Args:
        expression: Entries (operator, arguments) in single static assignment. An argument is ``x0``, ``x1``.. (an
            input), ``w0``, ``w1``.. (a constant of more than one element), ``t0``, ``t1``.. (the result of an earlier
            entry) or a float. Operators and their parameters are those of `softneuro_tvm.layers._numpy.FUNCTIONS`.
    """

    expression: Expression

    def count(self, prefix: str) -> int:
        """Number of inputs (``x``) or constants (``w``)."""
        named = [arg for _, args in self.expression for arg in args if isinstance(arg, str) and arg[0] == prefix]
        return max((int(arg[1:]) + 1 for arg in named), default=0)


def evaluate(
    expression: Expression, inputs: Sequence[Any], weights: Sequence[Any], functions: Mapping[str, Callable[..., Any]]
) -> Any:
    """Walks an expression with any table of functions: numpy arrays, TE expressions, vectors of a kernel.

    Args:
        expression: What to evaluate.
        inputs: Values of ``x0``, ``x1``..
        weights: Values of ``w0``, ``w1``..
        functions: By operator name; each takes the operator's arguments, numbers as floats.
    """
    known = {**{f"x{i}": x for i, x in enumerate(inputs)}, **{f"w{i}": w for i, w in enumerate(weights)}}
    for index, (operator, args) in enumerate(expression):
        known[f"t{index}"] = functions[operator](*(known[arg] if isinstance(arg, str) else arg for arg in args))
    return known[f"t{len(expression) - 1}"]


def _renamed(expression: Expression, names: Mapping[str, str]) -> Expression:
    return tuple((op, tuple(names.get(a, a) if isinstance(a, str) else a for a in args)) for op, args in expression)


def merge(first: ElementwiseAttributes, second: ElementwiseAttributes, position: int) -> ElementwiseAttributes:
    """Substitutes a producer for one input of its consumer.

    Args:
        first: The producer.
        second: The consumer.
        position: Which of the consumer's inputs the producer computes.

    Returns:
        An expression whose inputs are the consumer's with the producer's in place of `position`, and whose constants
        are the producer's followed by the consumer's (``w0`` of the consumer becomes ``w<n>``).
    """
    added, constants, entries = first.count("x"), first.count("w"), len(first.expression)
    producer = _renamed(first.expression, {f"x{i}": f"x{i + position}" for i in range(added)})
    names = {f"x{i}": f"x{i + added - 1}" for i in range(position + 1, second.count("x"))}
    names |= {f"x{position}": f"t{entries - 1}"}
    names |= {f"w{i}": f"w{i + constants}" for i in range(second.count("w"))}
    names |= {f"t{i}": f"t{i + entries}" for i in range(len(second.expression))}
    return ElementwiseAttributes(producer + _renamed(second.expression, names))


def unify_inputs(
    attributes: ElementwiseAttributes, tensors: Sequence[str]
) -> tuple[ElementwiseAttributes, tuple[str, ...]]:
    """Reads each tensor once: inputs that are the same tensor become one.

    Args:
        attributes: An expression.
        tensors: Name of the tensor that each input reads.

    Returns:
        The expression over distinct tensors, and those tensors in order of first use.
    """
    distinct = tuple(dict.fromkeys(tensors))
    names = {f"x{i}": f"x{distinct.index(tensor)}" for i, tensor in enumerate(tensors)}
    return ElementwiseAttributes(_renamed(attributes.expression, names)), distinct


class Elementwise(LayerKind):
    """``y = expression(x0, x1.., w0, w1..)`` with numpy's broadcasting of canonical shapes; float32."""

    name = "elementwise"
    Attributes = ElementwiseAttributes
    relax_operators = (*_BINARY, *_UNARY, "relax.clip", "relax.nn.leakyrelu", "relax.nn.prelu", "relax.nn.softplus")

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """Recognises one float32 operator with at least one activation."""
        tensors = operands[:1] if operator == "relax.clip" else operands
        if any(operand.type.dtype != "float32" for operand in tensors):
            return None
        if all(operand.value is not None for operand in tensors):
            return None
        if operator in _UNARY:
            return Recognised(ElementwiseAttributes(((_UNARY[operator], ("x0",)),)), (0,), {})
        if operator in _BINARY:
            return self._binary(_BINARY[operator], operands)
        if operator == "relax.clip":
            low, high = operands[1].value, operands[2].value
            if low is None or high is None:
                return None
            return Recognised(ElementwiseAttributes((("clip", ("x0", float(low), float(high))),)), (0,), {})
        if operator == "relax.nn.leakyrelu":
            return Recognised(ElementwiseAttributes((("leaky_relu", ("x0", float(attrs.alpha))),)), (0,), {})
        if operator == "relax.nn.softplus":
            if (float(attrs.beta), operands[0].value) != (1.0, None):
                return None
            return Recognised(ElementwiseAttributes((("softplus", ("x0",)),)), (0,), {})
        return self._prelu(normalise_axis(attrs.axis, operands[0].type.rank), operands)

    def _binary(self, operator: str, operands: Sequence[Operand]) -> Recognised:
        """Numbers become floats; other constants become weights of the output's rank."""
        rank = max(operand.type.rank for operand in operands)
        others = [operand.type.rank for operand in operands if operand.value is None]
        args: list[Argument] = []
        activations: list[int] = []
        weights: dict[str, np.ndarray] = {}
        for position, operand in enumerate(operands):
            if operand.value is None:
                args.append(f"x{len(activations)}")
                activations.append(position)
            elif operand.value.size == 1 and operand.type.rank <= max(others):
                args.append(float(operand.value.reshape(())))
            else:
                args.append("w0")
                weights["w0"] = operand.value.reshape((1,) * (rank - operand.type.rank) + operand.type.shape)
        return Recognised(ElementwiseAttributes(((operator, tuple(args)),)), tuple(activations), weights)

    def _prelu(self, axis: int, operands: Sequence[Operand]) -> Recognised | None:
        """The slope, one for each position along the axis, is laid out to broadcast."""
        data, slope = operands
        if data.value is not None or slope.value is None:
            return None
        if slope.value.size == 1:
            alpha = float(slope.value.reshape(()))
            return Recognised(ElementwiseAttributes((("leaky_relu", ("x0", alpha)),)), (0,), {})
        if slope.value.size != data.type.shape[axis]:
            return None
        shape = [1] * data.type.rank
        shape[axis] = slope.value.size
        return Recognised(ElementwiseAttributes((("prelu", ("x0", "w0")),)), (0,), {"w0": slope.value.reshape(shape)})

    def output_types(
        self, attributes: ElementwiseAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """All shapes broadcast together."""
        shapes = [tensor.shape for tensor in (*inputs, *weights.values())]
        return (TensorType(tuple(np.broadcast_shapes(*shapes)), inputs[0].dtype),)

    def reference(
        self, attributes: ElementwiseAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """Operator by operator."""
        constants = [weights[f"w{i}"] for i in range(attributes.count("w"))]
        return (np.asarray(evaluate(attributes.expression, inputs, constants, FUNCTIONS)),)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """The whole expression at once."""
        from tvm import te

        attributes, table = workload.attributes, functions()
        constants = [weights[f"w{index}"] for index in range(attributes.count("w"))]

        def element(*i: Any) -> Any:
            own, fixed = [broadcast(x, i) for x in inputs], [broadcast(w, i) for w in constants]
            return evaluate(attributes.expression, own, fixed, table)

        return [te.compute(workload.outputs[0].shape, element, "elementwise")]

    def flops(self, workload: Workload) -> int:
        """One for each operator and element."""
        return len(workload.attributes.expression) * int(np.prod(workload.outputs[0].shape))

    def examples(self) -> Iterable[Workload]:
        """Every operator, broadcasting of inputs and constants, several ranks, uneven channels, batches."""
        full, channel = (2, 20, 5, 7), (1, 20, 1, 1)
        cases: list[tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...], Expression]] = [
            (((1, 32, 6, 6), (1, 32, 6, 6)), (), (("add", ("x0", "x1")), ("relu", ("t0",)))),
            ((full, (2, 20, 1, 1)), (), (("mul", ("x0", "x1")),)),
            ((full,), (channel, channel), (("mul", ("x0", "w0")), ("add", ("t0", "w1")), ("hard_swish", ("t1",)))),
            ((full,), (channel,), (("prelu", ("x0", "w0")),)),
            (((3, 10), (1, 10)), (), (("sub", ("x0", "x1")), ("clip", ("t0", -0.5, 0.75)))),
            (((2, 6, 8), (8,)), ((1, 6, 1),), (("maximum", ("x0", "x1")), ("minimum", ("t0", "w0")))),
            (((7,),), (), (("erf", ("x0",)), ("add", ("t0", 1.0)), ("mul", ("t1", "x0")), ("mul", (0.5, "t2")))),
            (((1, 3, 4, 4, 2),), (), (("abs", ("x0",)), ("add", ("t0", 1.0)), ("log", ("t1",)), ("exp", ("t2",)))),
            (((4, 5),), (), (("square", ("x0",)), ("add", ("t0", 0.5)), ("rsqrt", ("t1",)), ("div", ("x0", "t2")))),
            (((4, 5),), (), (("abs", ("x0",)), ("pow", ("t0", 1.5)), ("sqrt", ("t0",)), ("add", ("t1", "t2")))),
            (((3, 9),), (), (("mul", ("x0", 1.7)), ("round", ("t0",)), ("floor", ("t0",)), ("sub", ("t1", "t2")))),
            (((3, 9),), (), (("ceil", ("x0",)), ("trunc", ("x0",)), ("sign", ("x0",)), ("add", ("t0", "t1")))),
            (((2, 8, 3, 3),), (), (("sin", ("x0",)), ("cos", ("x0",)), ("add", ("t0", "t1")), ("neg", ("t2",)))),
            (((2, 3),), (), (("abs", ("x0",)), ("add", ("t0", 1.0)), ("reciprocal", ("t1",)))),
            *[
                (((1, 24, 3, 5),), (), ((operator, ("x0", *numbers)),))
                for operator, numbers in (
                    ("tanh", ()),
                    ("sigmoid", ()),
                    ("silu", ()),
                    ("gelu", ()),
                    ("gelu_tanh", ()),
                    ("softplus", ()),
                    ("selu", ()),
                    ("elu", (0.7,)),
                    ("leaky_relu", (0.1,)),
                    ("hard_sigmoid", (0.2, 0.5)),
                )
            ],
        ]
        for shapes, constants, expression in cases:
            weights = {f"w{i}": TensorType(shape) for i, shape in enumerate(constants)}
            yield self.workload(ElementwiseAttributes(expression), [TensorType(shape) for shape in shapes], weights)
