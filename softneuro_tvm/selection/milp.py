"""A pairwise problem as a mixed-integer linear programme, for cores that elimination cannot take."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from softneuro_tvm.selection.elimination import FactorGraph
from softneuro_tvm.selection.local_search import total
from softneuro_tvm.selection.pairwise import Table

# HiGHS stops at an absolute gap of 1e-6: the costs are scaled to make that a tiny part of their range.
_SCALED_RANGE = 1e4
# HiGHS meets its constraints up to this share.
_TOLERANCE = 1e-6
_OPTIMAL = 0
_INFEASIBLE = 2


@dataclass(frozen=True)
class MilpResult:
    """What the integer programme found.

    Attributes:
        states: A feasible state vector by variable, or None if none was found.
        lower: No state vector costs less, in seconds, the graph's constant included; inf if none is feasible.
        optimal: Whether `states` is proved optimal, up to the tolerances of HiGHS.
    """

    states: dict[int, int] | None
    lower: float
    optimal: bool


@dataclass
class _Programme:
    """Columns and equality rows, as they are added."""

    costs: list[Table] = field(default_factory=list)
    entries: list[tuple[NDArray[np.intp], NDArray[np.intp], float]] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    columns: int = 0

    def add_columns(self, costs: Table) -> NDArray[np.intp]:
        self.costs.append(costs)
        self.columns += costs.size
        return np.arange(self.columns - costs.size, self.columns)

    def add_rows(self, count: int, right: float) -> NDArray[np.intp]:
        self.right.extend([right] * count)
        return np.arange(len(self.right) - count, len(self.right))


def solve_milp(graph: FactorGraph, time_limit_s: float) -> MilpResult:
    """Solve a pairwise graph over the local polytope: a binary per state, a continuous flow per pair of states.

    States that an edge cannot tell apart share their flows there, which leaves the relaxation as tight.

    Args:
        graph: Every state must be allowed. It is not changed.
        time_limit_s: HiGHS stops there and reports the best solution and bound so far.
    """
    programme = _Programme()
    shift = graph.constant + sum(float(graph.tables[(v,)].min()) for v in graph.variables)
    binaries: dict[int, NDArray[np.intp]] = {}
    for v in graph.variables:
        costs = graph.tables[(v,)]
        binaries[v] = programme.add_columns(costs - costs.min())
        row = programme.add_rows(1, 1.0)
        programme.entries.append((row.repeat(costs.size), binaries[v], 1.0))
    integral = programme.columns
    for i, j in graph.edges():
        table = graph.tables[i, j]
        least = float(table.min())
        shift += least
        _add_edge(programme, table - least, binaries[i], binaries[j])

    costs = np.concatenate(programme.costs)
    scale = _SCALED_RANGE / max(float(costs.max()), np.finfo(np.float64).tiny * _SCALED_RANGE)
    rows = np.concatenate([entry[0] for entry in programme.entries])
    columns = np.concatenate([entry[1] for entry in programme.entries])
    values = np.concatenate([np.full(entry[0].size, entry[2]) for entry in programme.entries])
    matrix = csr_array((values, (rows, columns)), shape=(len(programme.right), programme.columns))
    result = milp(
        costs * scale,
        integrality=(np.arange(programme.columns) < integral).astype(np.int8),
        bounds=Bounds(0.0, 1.0),
        constraints=LinearConstraint(matrix, programme.right, programme.right),
        options={"time_limit": max(time_limit_s, 0.0), "mip_rel_gap": 0.0},
    )
    if result.status == _INFEASIBLE:
        return MilpResult(None, np.inf, False)
    bound = result.mip_dual_bound
    lower = -np.inf if bound is None or np.isnan(bound) else float(bound) / scale + shift
    if result.x is None:
        return MilpResult(None, lower, False)
    states = {v: int(result.x[columns].argmax()) for v, columns in binaries.items()}
    agrees = total(graph, states) <= lower + _TOLERANCE * abs(lower)
    return MilpResult(states, lower, agrees and result.status == _OPTIMAL)


def _add_edge(
    programme: _Programme, table: Table, row_states: NDArray[np.intp], column_states: NDArray[np.intp]
) -> None:
    """Add the flows of one edge: those out of (into) a class of alike states sum to the class's binaries."""
    row_class, row_kept = _classes(table)
    column_class, column_kept = _classes(table.T)
    merged = table[np.ix_(row_kept, column_kept)]
    tail, head = np.nonzero(np.isfinite(merged))
    flows = programme.add_columns(merged[tail, head])
    for end, classes, states, count in (
        (tail, row_class, row_states, row_kept.size),
        (head, column_class, column_states, column_kept.size),
    ):
        rows = programme.add_rows(count, 0.0)
        programme.entries.append((rows[end], flows, 1.0))
        programme.entries.append((rows[classes], states, -1.0))


def _classes(table: Table) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Group equal rows: the class of each row, and the first row of each class."""
    first: dict[bytes, int] = {}
    classes = np.array([first.setdefault(row.tobytes(), len(first)) for row in table], dtype=np.intp)
    _, kept = np.unique(classes, return_index=True)
    return classes, kept
