"""A mixed-integer linear programme, as it is put together, and HiGHS to solve it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softneuro_tvm.selection.pairwise import Table

Columns = NDArray[np.intp]

# HiGHS stops at an absolute gap of 1e-6: the costs are scaled to make that a tiny part of their range.
_SCALED_RANGE = 1e4
_OPTIMAL = 0
_INFEASIBLE = 2


@dataclass(frozen=True, eq=False)
class Result:
    """What HiGHS found.

    Attributes:
        values: Of the columns, at the best solution; None if there is none.
        lower: No solution costs less; inf if none is feasible, -inf if nothing is known.
        optimal: True if HiGHS says that nothing is better.
    """

    values: Table | None
    lower: float
    optimal: bool


@dataclass
class Programme:
    """Columns between 0 and an upper bound, and rows, as they are added.

    Attributes:
        shift: What every solution costs besides its columns.
    """

    shift: float = 0.0
    _costs: list[Table] = field(default_factory=list)
    _integral: list[NDArray[np.int8]] = field(default_factory=list)
    _upper: list[Table] = field(default_factory=list)
    _rows: list[Columns] = field(default_factory=list)
    _columns: list[Columns] = field(default_factory=list)
    _values: list[NDArray[Any]] = field(default_factory=list)
    _more_costs: list[tuple[Columns, float]] = field(default_factory=list)
    _least: list[float] = field(default_factory=list)
    _most: list[float] = field(default_factory=list)
    columns: int = 0

    def add_columns(self, costs: Table, *, integral: bool = False, upper: float = 1.0) -> Columns:
        """Adds one column for each cost; returns their numbers."""
        self._costs.append(costs)
        self._integral.append(np.full(costs.size, integral, np.int8))
        self._upper.append(np.full(costs.size, upper))
        self.columns += costs.size
        return np.arange(self.columns - costs.size, self.columns)

    def add_cost(self, columns: Columns, cost: float) -> None:
        """Raises the cost of some columns."""
        self._more_costs.append((columns, cost))

    def add_rows(self, count: int, least: float, most: float) -> Columns:
        """Adds empty rows whose sums lie between two values; returns their numbers."""
        self._least.extend([least] * count)
        self._most.extend([most] * count)
        return np.arange(len(self._least) - count, len(self._least))

    def add_entries(self, rows: Columns, columns: Columns, value: float | Table) -> None:
        """Adds coefficients; those at the same place add up."""
        self._rows.append(rows)
        self._columns.append(columns)
        self._values.append(np.broadcast_to(np.asarray(value, float), columns.shape))

    def add_row(self, terms: Sequence[tuple[Columns, float]], least: float = -np.inf, most: float = np.inf) -> None:
        """Adds a row: a sum of columns for each term, times the term's number."""
        (row,) = self.add_rows(1, least, most)
        for columns, value in terms:
            self.add_entries(np.full(columns.size, row), columns, value)

    def solve(self, time_limit_s: float) -> Result:
        """Minimises; HiGHS stops at the time limit and reports the best solution and bound so far."""
        from scipy.optimize import Bounds, LinearConstraint, milp  # takes half a second to import
        from scipy.sparse import csr_array

        costs = np.concatenate(self._costs)
        for columns, more in self._more_costs:
            costs[columns] += more
        scale = _SCALED_RANGE / max(float(costs.max()), np.finfo(np.float64).tiny * _SCALED_RANGE)
        place = (np.concatenate(self._rows), np.concatenate(self._columns))
        matrix = csr_array((np.concatenate(self._values), place), shape=(len(self._least), self.columns))
        options = {"time_limit": max(time_limit_s, 0.0), "mip_rel_gap": 0.0}
        for presolve in (True, False):
            with _quiet():
                result = milp(
                    costs * scale,
                    integrality=np.concatenate(self._integral),
                    bounds=Bounds(0.0, np.concatenate(self._upper)),
                    constraints=LinearConstraint(matrix, self._least, self._most),
                    options=options | {"presolve": presolve},
                )
            if result.status != _INFEASIBLE:
                break  # else it is confirmed: the presolver of HiGHS may err where a row is just met
        if result.status == _INFEASIBLE:
            return Result(None, np.inf, False)
        bound = result.mip_dual_bound
        lower = -np.inf if bound is None or np.isnan(bound) else float(bound) / scale + self.shift
        return Result(result.x, lower, result.status == _OPTIMAL)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides lines that HiGHS's C++ code prints to find its own faults; all else on stdout passes."""
    sys.stdout.flush()
    saved = os.dup(1)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(saved, 1)
            os.close(saved)
            caught.seek(0)
            for line in caught:
                if not line.startswith(b"HighsMip"):
                    os.write(1, line)
