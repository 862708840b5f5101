"""What measurements say about candidates that were not measured: the trees' errors as a Gaussian process.

The trees' errors in log time are alike over a whole device, a routine, a workload, one setting on similar workloads.
Each likeness is a component of the errors' covariance, whose variance is fitted to errors on networks that the trees
had not seen. Conditioning on measured errors then corrects predictions for candidates alike, and narrows them.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), chapter 2; variances are fitted by
regressing products of errors on the components (Haseman and Elston, Behavior Genetics 1972).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

COMPONENTS = ("all", "kind", "routine", "routine near", "workload", "routine on workload", "setting near")
"""What two candidates may have in common; ``near`` fades as the sizes of their workloads differ."""

_NEAR_OCTAVES = 1.0
"""Length of that fading, in octaves of operations, bytes read, written and of weights."""
_MOST = 3.0
"""Errors beyond so many typical ones are taken for this many, so that no measurement drags its neighbours along."""


@dataclass(frozen=True, eq=False)
class Likeness:
    """What candidates are compared by: one row each.

    Args:
        identities: Numbers that stand for kind, routine, workload, and routine with parameters and formats.
        places: `WorkloadFacts.place`.
        scales: Typical error of each in log time, before anything is measured.
    """

    identities: npt.NDArray[np.int64]
    places: Vector
    scales: Vector

    def __len__(self) -> int:
        return len(self.identities)

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Likeness:
        """Some of the candidates."""
        return Likeness(self.identities[rows], self.places[rows], self.scales[rows])

    @staticmethod
    def of(names: Sequence[tuple[object, ...]], places: Sequence[Sequence[float]], scales: Vector) -> Likeness:
        """Numbers the names by their hashes, so that they can be compared over several calls in one process."""
        rows = [[hash(name) for name in row] for row in names]
        return Likeness(np.array(rows, np.int64).reshape(-1, 4), np.array(places, float).reshape(-1, 4), scales)


def components(first: Likeness, second: Likeness) -> list[Vector]:
    """Each component between every candidate of the first and every one of the second, from 0 to 1."""
    kind, routine, workload, setting = (
        (first.identities[:, None, i] == second.identities[None, :, i]).astype(float) for i in range(4)
    )
    squares = (first.places**2).sum(1)[:, None] + (second.places**2).sum(1) - 2 * first.places @ second.places.T
    near = np.exp(-0.5 * np.maximum(squares, 0.0) / _NEAR_OCTAVES**2)
    return [np.ones_like(near), kind, routine, routine * near, workload, routine * workload, setting * near]


@dataclass(frozen=True)
class ErrorModel:
    """Covariance of the trees' errors, each divided by its scale.

    Args:
        variances: Of `COMPONENTS`.
        noise: Variance of what a candidate has in common with no other.
    """

    variances: tuple[float, ...]
    noise: float

    @property
    def total(self) -> float:
        """Variance of one scaled error before anything is measured."""
        return sum(self.variances) + self.noise

    def covariance(self, first: Likeness, second: Likeness, device_sd: float) -> Vector:
        """Between errors in log time, without their noise.

        Args:
            first: Rows.
            second: Columns.
            device_sd: Standard deviation of the log of the device's speed relative to the nominal one.
        """
        parts = zip(self.variances, components(first, second), strict=True)
        alike: Vector = sum((v * part for v, part in parts if v), np.zeros((len(first), len(second))))
        found: Vector = device_sd**2 + alike * first.scales[:, None] * second.scales
        return found

    @staticmethod
    def fit(groups: Sequence[tuple[Likeness, Vector]]) -> ErrorModel:
        """Fits the variances.

        Args:
            groups: Candidates that occur together (of one network at one number of threads) and their errors.
        """
        from scipy.optimize import nnls  # takes half a second to import

        normal, right = np.zeros((len(COMPONENTS), len(COMPONENTS))), np.zeros(len(COMPONENTS))
        square = count = 0.0
        for likeness, errors in groups:
            scaled = np.clip(errors / likeness.scales, -_MOST, _MOST)
            upper = np.triu_indices(len(scaled), 1)
            table = np.stack([part[upper] for part in components(likeness, likeness)])
            normal += table @ table.T / max(len(scaled), 1)  # so that large networks do not settle it alone
            right += table @ np.outer(scaled, scaled)[upper] / max(len(scaled), 1)
            square, count = square + float(scaled @ scaled), count + len(scaled)
        factor = np.linalg.cholesky(normal + 1e-9 * np.trace(normal) * np.eye(len(normal)))
        variances, _ = nnls(factor.T, np.linalg.solve(factor, right))
        total = square / max(count, 1.0)
        return ErrorModel(tuple(float(v) for v in variances), max(total - float(variances.sum()), 0.02 * total))


@dataclass(frozen=True, eq=False)
class Posterior:
    """The error model conditioned on measured errors.

    Args:
        model: The covariance.
        device_sd: As in `ErrorModel.covariance`.
        known: Measured candidates.
        factor: Cholesky factor of the covariance of their errors, noise included.
        solved: That covariance's inverse times the errors.
    """

    model: ErrorModel
    device_sd: float
    known: Likeness
    factor: Vector
    solved: Vector

    @staticmethod
    def of(model: ErrorModel, device_sd: float, known: Likeness, errors: Vector, doubts: Vector) -> Posterior:
        """Conditions on the errors of measured candidates.

        Args:
            model: The covariance.
            device_sd: As in `ErrorModel.covariance`.
            known: The candidates.
            errors: In log time.
            doubts: Standard deviation of what else the error of each is due to, in typical errors: 0 for one that was
                measured as those that are asked for will be.
        """
        spread = np.sqrt(device_sd**2 + model.total * known.scales**2)
        clipped = np.clip(errors, -_MOST * spread, _MOST * spread)
        noise = np.diag((model.noise + doubts**2) * known.scales**2 + 1e-6)
        factor = np.linalg.cholesky(model.covariance(known, known, device_sd) + noise)
        solved = np.linalg.solve(factor.T, np.linalg.solve(factor, clipped))
        return Posterior(model, device_sd, known, np.asarray(factor, float), np.asarray(solved, float))

    @property
    def common(self) -> float:
        """Part of all means that is the device's: log of how much slower it is than its nominal figures say."""
        return self.device_sd**2 * float(self.solved.sum())

    def __call__(self, asked: Likeness) -> tuple[Vector, Vector]:
        """Mean and standard deviation of the errors of candidates, in log time."""
        prior = self.device_sd**2 + self.model.total * asked.scales**2
        if not len(self.known):
            return np.zeros(len(asked)), np.sqrt(prior)
        cross = self.model.covariance(asked, self.known, self.device_sd)
        half = np.linalg.solve(self.factor, cross.T)
        left = prior - (half**2).sum(0)
        return cross @ self.solved, np.sqrt(np.maximum(left, self.model.noise * asked.scales**2))
