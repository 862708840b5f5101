"""The elementwise operators on vectors of float32, by the names of `softneuro_tvm.layers._numpy.FUNCTIONS`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tvm.tirx.script.builder import ir as T

from softneuro_tvm.activations import Activation
from softneuro_tvm.layers.elementwise import Argument, Expression

from .._tir import Expr, Kernel, activate, erf, exp, sigmoid, tanh

_SUPPORTED = frozenset(
    (
        *("add", "sub", "mul", "div", "maximum", "minimum", "neg", "abs", "exp", "log", "sqrt", "rsqrt", "erf"),
        *("tanh", "sigmoid", "floor", "ceil", "round", "trunc", "sign", "square", "reciprocal", "relu", "leaky_relu"),
        *("prelu", "elu", "selu", "clip", "hard_sigmoid", "hard_swish", "silu", "gelu", "gelu_tanh", "softplus"),
    )
)
"""Operators that have a vector form here, whatever their arguments."""

_PARTIAL = frozenset(("div", "log", "sqrt", "rsqrt", "reciprocal"))

COSTLY = frozenset(
    (
        *("exp", "log", "erf", "tanh", "sigmoid", "elu", "selu", "silu", "gelu", "gelu_tanh", "softplus", "div"),
        *("sqrt", "rsqrt", "reciprocal"),
    )
)
"""Operators of more than a few instructions."""


_POWERS: Mapping[Argument, Callable[[Expr], Expr]] = {
    1.0: lambda x: x,
    2.0: lambda x: x * x,
    3.0: lambda x: x * x * x,
    4.0: lambda x: Kernel.bind(x * x) * Kernel.bind(x * x),
    0.5: T.sqrt,
}
"""Powers that are a few multiplications or a root."""


def is_supported(expression: Expression) -> bool:
    """True if every operator has a vector form here."""
    return all(op in _SUPPORTED or (op == "pow" and args[1] in _POWERS) for op, args in expression)


def is_total(expression: Expression) -> bool:
    """True if the result is finite for all arguments of moderate size."""

    def is_partial(operator: str, args: tuple[Argument, ...]) -> bool:
        if operator == "pow":
            return args[1] == 0.5
        return operator in _PARTIAL and not (operator == "div" and isinstance(args[1], float) and args[1] != 0)

    return not any(is_partial(operator, args) for operator, args in expression)


def log(x: Expr, lanes: int) -> Expr:
    """Natural logarithm: relative error 2e-7 for normal numbers; -inf for 0, NaN for negative numbers and NaN.

    The argument is split into 2^e m with m in [sqrt(1/2), sqrt(2)); log m = 2 artanh((m - 1) / (m + 1)), as a series.
    Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 4.1.27.
    """
    suffix = f"x{lanes}" if lanes > 1 else ""

    def integer(value: int) -> Expr:
        return T.int32(value) if lanes == 1 else T.broadcast(T.int32(value), lanes)

    def c(value: float) -> Expr:
        return Kernel.splat(value, lanes)

    x = Kernel.pin(x, lanes)
    bits = T.Bind(T.reinterpret(f"int32{suffix}", x))
    shifted = T.Bind(bits - integer(0x3F3504F3))  # the bits of sqrt(1/2)
    exponent = T.Bind(T.shift_right(shifted, integer(23)))
    mantissa = T.Bind(T.reinterpret(f"float32{suffix}", bits - T.shift_left(exponent, integer(23))))
    ratio = T.Bind((mantissa - c(1.0)) / (mantissa + c(1.0)))
    square = T.Bind(ratio * ratio)
    series = c(1 / 11)
    for factor in (1 / 9, 1 / 7, 1 / 5, 1 / 3, 1.0):
        series = series * square + c(factor)
    value = T.Bind(c(2.0) * ratio * series + T.Cast(f"float32{suffix}", exponent) * c(math.log(2)))
    finite = T.Select(x < c(math.inf), value, x)
    return T.Select(x > c(0.0), finite, T.Select(x >= c(0.0), c(-math.inf), c(math.nan)))


def functions(lanes: int) -> Mapping[str, Callable[..., Any]]:
    """The operators on vectors of `lanes` elements; numbers are Python floats."""

    def c(value: Expr) -> Expr:
        return Kernel.splat(float(value), lanes) if isinstance(value, float | int) else value

    def below_zero(x: Expr, negative: Expr) -> Expr:
        return T.Select(x < c(0), negative, x)

    def activation(name: str) -> Callable[..., Any]:
        return lambda x, *numbers: activate(x, Activation(name, *numbers), lanes)

    def elu(x: Expr, alpha: float) -> Expr:
        return below_zero(x, c(alpha) * (exp(T.min(x, c(0)), lanes) - c(1)))

    def gelu_tanh(x: Expr) -> Expr:
        inner = c(math.sqrt(2 / math.pi)) * (x + c(0.044715) * x * x * x)
        return x * c(0.5) * (c(1) + tanh(inner, lanes))

    def softplus(x: Expr) -> Expr:
        return T.max(x, c(0)) + log(c(1) + exp(c(0) - T.max(x, c(0) - x), lanes), lanes)

    def sign(x: Expr) -> Expr:
        return T.Select(x > c(0), c(1), T.Select(x < c(0), c(-1), c(0)))

    names = ("relu", "leaky_relu", "clip", "hard_sigmoid", "hard_swish", "silu", "gelu")
    table = {
        **{name: activation(name) for name in names},
        "add": lambda x, y: c(x) + c(y),
        "sub": lambda x, y: c(x) - c(y),
        "mul": lambda x, y: c(x) * c(y),
        "div": lambda x, y: c(x) / c(y),
        "maximum": lambda x, y: T.max(c(x), c(y)),
        "minimum": lambda x, y: T.min(c(x), c(y)),
        "neg": lambda x: c(0) - x,
        "abs": lambda x: T.max(x, c(0) - x),
        "exp": lambda x: exp(x, lanes),
        "log": lambda x: log(x, lanes),
        "sqrt": T.sqrt,
        "rsqrt": lambda x: c(1) / T.sqrt(x),
        "erf": lambda x: erf(x, lanes),
        "tanh": lambda x: tanh(x, lanes),
        "sigmoid": lambda x: sigmoid(x, lanes),
        "floor": T.floor,
        "ceil": T.ceil,
        "round": T.nearbyint,
        "trunc": T.trunc,
        "sign": sign,
        "square": lambda x: x * x,
        "reciprocal": lambda x: c(1) / x,
        "pow": lambda x, exponent: _POWERS[exponent](x),
        "prelu": lambda x, slope: below_zero(x, slope * x),
        "elu": elu,
        "selu": lambda x: c(1.0507009873554805) * elu(x, 1.6732632423543772),
        "gelu_tanh": gelu_tanh,
        "softplus": softplus,
    }
    return {name: _pinned(function, lanes) for name, function in table.items()}


def _pinned(function: Callable[..., Any], lanes: int) -> Callable[..., Any]:
    """The function with its result computed once, however many read it."""
    return lambda *args: Kernel.pin(function(*args), lanes)
