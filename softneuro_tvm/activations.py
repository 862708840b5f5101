"""Activation functions that routines apply in their epilogues: names as in ONNX, float64 reference in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import erf

import numpy as np

_ERF = np.vectorize(erf, otypes=[np.float64])

_FUNCTIONS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    "identity": lambda x, a, b: x,
    "relu": lambda x, a, b: np.maximum(x, 0),
    "clip": lambda x, a, b: np.clip(x, a, b),
    "leaky_relu": lambda x, a, b: np.where(x < 0, a * x, x),
    "hard_sigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "hard_swish": lambda x, a, b: x * np.clip(x / 6 + 0.5, 0, 1),
    "sigmoid": lambda x, a, b: 0.5 * (1 + np.tanh(0.5 * x)),
    "silu": lambda x, a, b: x * 0.5 * (1 + np.tanh(0.5 * x)),
    "tanh": lambda x, a, b: np.tanh(x),
    "gelu": lambda x, a, b: 0.5 * x * (1 + _ERF(x / np.sqrt(2))),
}


@dataclass(frozen=True)
class Activation:
    """An activation and its parameters.

    Args:
        name: One of `Activation.names()`, or ``prelu`` (slope for each channel, a weight named ``slope``).
        alpha: ``clip``: minimum; ``leaky_relu``: slope; ``hard_sigmoid``: scale; otherwise unused.
        beta: ``clip``: maximum; ``hard_sigmoid``: offset; otherwise unused.
    """

    name: str = "identity"
    alpha: float = 0.0
    beta: float = 0.0

    @staticmethod
    def names() -> tuple[str, ...]:
        """Every activation there is."""
        return (*_FUNCTIONS, "prelu")

    def reference(self, x: np.ndarray, slope: np.ndarray | None = None) -> np.ndarray:
        """Applies the activation in the array's own precision.

        Args:
            x: Any shape.
            slope: ``prelu`` only; broadcasts against `x`.
        """
        if self.name == "prelu":
            assert slope is not None
            return np.where(x < 0, slope * x, x)
        return _FUNCTIONS[self.name](x, self.alpha, self.beta)

    def __str__(self) -> str:
        used = {"clip": 2, "hard_sigmoid": 2, "leaky_relu": 1}.get(self.name, 0)
        values = ",".join(f"{value:g}" for value in (self.alpha, self.beta)[:used])
        return f"{self.name}({values})" if values else self.name


IDENTITY = Activation()
