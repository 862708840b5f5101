"""Which multiple of its typical error a prediction's error does not fall below, or exceed, how often.

Source: conformal prediction with normalised errors: Lei et al., Distribution-Free Predictive Inference for Regression
(JASA 2018).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from softneuro_tvm.cost_model.residuals import Vector

LEVELS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
"""Shares of errors at which quantiles are kept."""
_SHRINK = 100
"""A routine's own quantiles count as much as everybody's if it has so many errors."""


@dataclass(frozen=True)
class Calibration:
    """Quantiles of errors divided by their standard deviations.

    Args:
        pooled: At `LEVELS`, over all routines.
        own: The same for each routine, drawn towards the pooled ones where it has few errors.
    """

    pooled: tuple[float, ...]
    own: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @staticmethod
    def fit(errors: Vector, routines: Sequence[str]) -> Calibration:
        """Takes the quantiles.

        Args:
            errors: Of candidates that the model had not seen, each divided by its standard deviation.
            routines: Name of the routine of each.
        """
        pooled, of = np.quantile(errors, LEVELS), np.array(routines)
        own = {}
        for routine in sorted(set(routines)):
            found = errors[of == routine]
            weight = len(found) / (len(found) + _SHRINK)
            mixed = weight * np.quantile(found, LEVELS) + (1 - weight) * pooled
            own[routine] = tuple(float(q) for q in mixed)
        return Calibration(tuple(float(q) for q in pooled), own)

    def quantiles(self, routines: Sequence[str], level: float) -> Vector:
        """For each candidate, the multiple below which this share of errors lies."""
        values = {name: float(np.interp(level, LEVELS, self.own.get(name, self.pooled))) for name in set(routines)}
        return np.array([values[name] for name in routines])
