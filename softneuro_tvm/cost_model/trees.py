"""Boosted trees that predict log time over the roofline, and how far off they may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softneuro_tvm.cost_model.features import Features, Matrix, matrix
from softneuro_tvm.cost_model.residuals import Vector

_COMMON: dict[str, Any] = {
    "objective": "reg:squarederror",
    "tree_method": "hist",
    "max_bin": 128,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "reg_lambda": 2.0,
    "nthread": 1,
    "seed": 0,
}
_GENERAL = {**_COMMON, "max_depth": 6, "eta": 0.07, "min_child_weight": 3}
_OWN = {**_COMMON, "objective": "reg:absoluteerror", "max_depth": 5, "eta": 0.08, "min_child_weight": 3}
_SPREAD = {**_COMMON, "max_depth": 4, "eta": 0.06, "min_child_weight": 15}
_ROUNDS = {"general": 250, "own": 150, "spread": 80}

FEWEST_OF_ONE_ROUTINE = 60
"""Records that a routine needs for trees of its own."""
_LEAST_ERROR = 0.02
"""Errors in log time are not told apart below this."""


@dataclass(frozen=True, eq=False)
class Trees:
    """Predicts the log of time over roofline time, of candidates of any routine.

    Args:
        names: Features, in the order of the columns.
        routines: Those that the trees know.
        general: Trees over all routines.
        own: For routines with many records, trees of their own and the columns they see; the prediction is the mean
            of both.
        spread: Trees that predict the log of the error's size; None before it is known.
    """

    names: tuple[str, ...]
    routines: frozenset[str]
    general: Any
    own: Mapping[str, tuple[Any, tuple[int, ...]]]
    spread: Any = None

    @staticmethod
    def fit(rows: Sequence[Features], routines: Sequence[str], targets: Vector) -> Trees:
        """Grows trees.

        Args:
            rows: Features of each record.
            routines: Name of its routine.
            targets: Log of its time over its roofline time.
        """
        names = tuple(sorted({name for row in rows for name in row}))
        table, of = matrix(rows, names), np.array(routines)
        own = {}
        for routine in sorted(set(routines)):
            chosen = np.flatnonzero(of == routine)
            columns = _varying(table[chosen])
            if len(chosen) >= FEWEST_OF_ONE_ROUTINE and columns:
                own[routine] = _grow(_OWN, table[chosen][:, columns], targets[chosen], "own"), columns
        return Trees(names, frozenset(routines), _grow(_GENERAL, table, targets, "general"), own)

    def with_spread(self, rows: Sequence[Features], errors: Vector) -> Trees:
        """The same trees, told how large errors are on records that trees like these had not seen."""
        sizes = np.log(np.abs(errors) + _LEAST_ERROR)
        spread = _grow(_SPREAD, matrix(rows, self.names), sizes, "spread")
        return replace(self, spread=spread)

    def __call__(self, rows: Sequence[Features], routines: Sequence[str]) -> tuple[Vector, Vector]:
        """Predictions, and the typical size of their errors (1 where it is not known)."""
        table, of = matrix(rows, self.names), np.array(routines)
        if not len(table):
            return np.zeros(0), np.zeros(0)
        found = _ask(self.general, table)
        for routine, (trees, columns) in self.own.items():
            chosen = np.flatnonzero(of == routine)
            if len(chosen):
                found[chosen] = (found[chosen] + _ask(trees, table[chosen][:, columns])) / 2
        return found, np.ones(len(table)) if self.spread is None else np.exp(_ask(self.spread, table))


def _varying(table: Matrix) -> tuple[int, ...]:
    """Columns that are not the same everywhere."""
    filled = np.nan_to_num(table, nan=-1e30)
    return tuple(int(i) for i in np.flatnonzero((filled != filled[0]).any(0)))


def _grow(params: Mapping[str, Any], table: Matrix, targets: Vector, kind: str) -> Any:
    import xgboost  # heavy; only tuning needs it

    return xgboost.train(dict(params), xgboost.DMatrix(table, targets), _ROUNDS[kind])


def _ask(trees: Any, table: Matrix) -> Vector:
    return np.asarray(trees.inplace_predict(table), np.float64)
