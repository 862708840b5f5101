"""Helpers for TE definitions: the elementwise operators on TIR expressions, epilogues. Imports TVM on first use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from softneuro_tvm.activations import Activation

Expr = Any
"""A TIR expression, or a Python float where an operator takes a number."""


def _constant(value: Expr) -> Expr:
    from tvm import tirx

    return tirx.const(float(value), "float32") if isinstance(value, int | float) else value


def _clip(x: Expr, low: Expr, high: Expr) -> Expr:
    from tvm import tirx

    return tirx.min(tirx.max(x, _constant(low)), _constant(high))


def _where_negative(x: Expr, negative: Expr) -> Expr:
    from tvm import tirx

    return tirx.Select(x < _constant(0), negative, x)


def _elu(x: Expr, alpha: Expr) -> Expr:
    from tvm import tirx

    return _where_negative(x, _constant(alpha) * (tirx.exp(tirx.min(x, _constant(0))) - _constant(1)))


def _selu(x: Expr) -> Expr:
    return _constant(1.0507009873554805) * _elu(x, 1.6732632423543772)


def _gelu(x: Expr) -> Expr:
    from tvm import tirx

    return x * _constant(0.5) * (_constant(1) + tirx.erf(x * _constant(math.sqrt(0.5))))


def _gelu_tanh(x: Expr) -> Expr:
    from tvm import tirx

    inner = _constant(math.sqrt(2 / math.pi)) * (x + _constant(0.044715) * x * x * x)
    return x * _constant(0.5) * (_constant(1) + tirx.tanh(inner))


def _softplus(x: Expr) -> Expr:
    from tvm import tirx

    return tirx.max(x, _constant(0)) + tirx.log(_constant(1) + tirx.exp(_constant(0) - tirx.abs(x)))


def _sign(x: Expr) -> Expr:
    from tvm import tirx

    zero = _constant(0)
    return tirx.Select(x > zero, _constant(1), tirx.Select(x < zero, _constant(-1), zero))


def functions() -> dict[str, Callable[..., Expr]]:
    """Every elementwise operator by name, as in `softneuro_tvm.layers._numpy.FUNCTIONS`, on float32 expressions."""
    from tvm import tirx

    c = _constant
    return {
        "add": lambda x, y: c(x) + c(y),
        "sub": lambda x, y: c(x) - c(y),
        "mul": lambda x, y: c(x) * c(y),
        "div": lambda x, y: c(x) / c(y),
        "maximum": lambda x, y: tirx.max(c(x), c(y)),
        "minimum": lambda x, y: tirx.min(c(x), c(y)),
        "pow": lambda x, y: tirx.pow(c(x), c(y)),
        "neg": lambda x: c(0) - x,
        "abs": tirx.abs,
        "exp": tirx.exp,
        "log": tirx.log,
        "sqrt": tirx.sqrt,
        "rsqrt": lambda x: c(1) / tirx.sqrt(x),
        "erf": tirx.erf,
        "tanh": tirx.tanh,
        "sigmoid": tirx.sigmoid,
        "floor": tirx.floor,
        "ceil": tirx.ceil,
        "round": tirx.nearbyint,
        "trunc": tirx.trunc,
        "sign": _sign,
        "sin": tirx.sin,
        "cos": tirx.cos,
        "square": lambda x: x * x,
        "reciprocal": lambda x: c(1) / x,
        "relu": lambda x: tirx.max(x, c(0)),
        "leaky_relu": lambda x, alpha: _where_negative(x, c(alpha) * x),
        "prelu": lambda x, slope: _where_negative(x, slope * x),
        "elu": _elu,
        "selu": _selu,
        "clip": _clip,
        "hard_sigmoid": lambda x, alpha, beta: _clip(c(alpha) * x + c(beta), 0.0, 1.0),
        "hard_swish": lambda x: x * _clip(x * c(1 / 6) + c(0.5), 0.0, 1.0),
        "silu": lambda x: x * tirx.sigmoid(x),
        "gelu": _gelu,
        "gelu_tanh": _gelu_tanh,
        "softplus": _softplus,
    }


def activate(x: Expr, activation: Activation, slope: Expr | None = None) -> Expr:
    """Applies an activation to a float32 expression; `slope` is the element's slope, for ``prelu`` only."""
    if activation.name == "identity":
        return x
    if activation.name == "prelu":
        return _where_negative(x, slope * x)
    numbers = {"clip": 2, "hard_sigmoid": 2, "leaky_relu": 1}.get(activation.name, 0)
    return functions()[activation.name](x, *(activation.alpha, activation.beta)[:numbers])


def broadcast(tensor: Any, indices: Sequence[Expr]) -> Expr:
    """The element of a tensor at an index of a shape that it broadcasts to."""
    own = indices[len(indices) - len(tensor.shape) :]
    return tensor(*(0 if int(extent) == 1 else index for extent, index in zip(tensor.shape, own, strict=True)))
