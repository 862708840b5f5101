"""Helpers that several layer kinds share: axes, and the numpy meaning of the elementwise operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import erf, pi, sqrt
from types import MappingProxyType
from typing import Any

import numpy as np

_ERF = np.vectorize(erf, otypes=[np.float64])
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def normalise_axis(axis: int, rank: int) -> int:
    """The axis counted from the front."""
    return int(axis) % rank if rank else 0


def normalise_axes(axes: Iterable[int] | None, rank: int) -> tuple[int, ...]:
    """Axes counted from the front, sorted; all of them if there are none."""
    found = range(rank) if axes is None else (normalise_axis(axis, rank) for axis in axes)
    return tuple(sorted(found))


def _sigmoid(x: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _gelu_tanh(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x)))


def _elu(x: Any, alpha: Any) -> Any:
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "add": lambda x, y: x + y,
        "sub": lambda x, y: x - y,
        "mul": lambda x, y: x * y,
        "div": lambda x, y: x / y,
        "maximum": np.maximum,
        "minimum": np.minimum,
        "pow": np.power,
        "neg": np.negative,
        "abs": np.abs,
        "exp": np.exp,
        "log": np.log,
        "sqrt": np.sqrt,
        "rsqrt": lambda x: 1 / np.sqrt(x),
        "erf": lambda x: _ERF(x),
        "tanh": np.tanh,
        "sigmoid": _sigmoid,
        "floor": np.floor,
        "ceil": np.ceil,
        "round": np.rint,
        "trunc": np.trunc,
        "sign": np.sign,
        "sin": np.sin,
        "cos": np.cos,
        "square": lambda x: x * x,
        "reciprocal": lambda x: 1 / x,
        "relu": lambda x: np.maximum(x, 0),
        "leaky_relu": lambda x, alpha: np.where(x < 0, alpha * x, x),
        "prelu": lambda x, slope: np.where(x < 0, slope * x, x),
        "elu": _elu,
        "selu": lambda x: _SELU_SCALE * _elu(x, _SELU_ALPHA),
        "clip": lambda x, low, high: np.minimum(np.maximum(x, low), high),
        "hard_sigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
        "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
        "silu": lambda x: x * _sigmoid(x),
        "gelu": lambda x: 0.5 * x * (1 + _ERF(x / sqrt(2))),
        "gelu_tanh": _gelu_tanh,
        "softplus": lambda x: np.logaddexp(x, 0),
    }
)
"""Every elementwise operator by name: functions of arrays and floats that broadcast."""
