"""What the tuner asks of a cost model, and draws from its predictions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from softneuro_tvm.routine import Candidate

_LOW, _HIGH = 1.282, 1.645
"""Standard deviations between the median and the bounds: one in ten candidates is below, one in twenty above."""


class Predicted(Protocol):
    """Seconds that a candidate takes: bounds that it rarely passes, and the most likely value."""

    @property
    def low_s(self) -> float:
        """Lower bound."""

    @property
    def median_s(self) -> float:
        """As likely too low as too high."""

    @property
    def high_s(self) -> float:
        """Upper bound."""


class Predictor(Protocol):
    """A cost model."""

    def refine(self, records: Iterable[tuple[Candidate, float]]) -> Any:
        """Learns from candidates and the seconds that they took on the device."""

    def predict(self, candidates: Sequence[Candidate]) -> Sequence[Predicted]:
        """One prediction for each candidate."""


def drawn_s(prediction: Predicted, normal: float) -> float:
    """A sample of the predicted distribution.

    Args:
        prediction: The distribution, taken as normal in the logarithm on each side of its median.
        normal: A sample of the standard normal distribution.
    """
    bound_s, outer = (prediction.low_s, _LOW) if normal < 0 else (prediction.high_s, _HIGH)
    deviation = abs(math.log(bound_s / prediction.median_s)) / outer
    return prediction.median_s * math.exp(deviation * normal)
