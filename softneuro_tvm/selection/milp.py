"""A pairwise problem as a mixed-integer linear programme, for cores that elimination cannot take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softneuro_tvm.selection.elimination import FactorGraph
from softneuro_tvm.selection.local_search import total
from softneuro_tvm.selection.pairwise import Table
from softneuro_tvm.selection.programme import Columns, Programme

# HiGHS meets its constraints up to this share.
_TOLERANCE = 1e-6


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


def solve_milp(graph: FactorGraph, time_limit_s: float) -> MilpResult:
    """Solve a pairwise graph over the local polytope: a binary per state, a continuous flow per pair of states.

    States that an edge cannot tell apart share their flows there, which leaves the relaxation as tight.

    Args:
        graph: Every state must be allowed. It is not changed.
        time_limit_s: HiGHS stops there and reports the best solution and bound so far.
    """
    programme = Programme(graph.constant)
    binaries: dict[int, Columns] = {}
    for v in graph.variables:
        costs = graph.tables[(v,)]
        programme.shift += float(costs.min())
        binaries[v] = programme.add_columns(costs - costs.min(), integral=True)
        programme.add_row([(binaries[v], 1.0)], 1.0, 1.0)
    for i, j in graph.edges():
        table = graph.tables[i, j]
        programme.shift += float(table.min())
        _add_edge(programme, table - table.min(), binaries[i], binaries[j])
    result = programme.solve(time_limit_s)
    if result.values is None:
        return MilpResult(None, result.lower, False)
    states = {v: int(result.values[columns].argmax()) for v, columns in binaries.items()}
    agrees = total(graph, states) <= result.lower + _TOLERANCE * abs(result.lower)
    return MilpResult(states, result.lower, agrees and result.optimal)


def _add_edge(programme: Programme, table: Table, row_states: Columns, column_states: Columns) -> None:
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
        rows = programme.add_rows(count, 0.0, 0.0)
        programme.add_entries(rows[end], flows, 1.0)
        programme.add_entries(rows[classes], states, -1.0)


def _classes(table: Table) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Group equal rows: the class of each row, and the first row of each class."""
    first: dict[bytes, int] = {}
    classes = np.array([first.setdefault(row.tobytes(), len(first)) for row in table], dtype=np.intp)
    _, kept = np.unique(classes, return_index=True)
    return classes, kept
