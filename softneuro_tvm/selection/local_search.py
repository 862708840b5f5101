"""Better solutions near a given one, by eliminating all but a random few of the variables exactly."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from softneuro_tvm.selection.elimination import FactorGraph, back_substitute
from softneuro_tvm.selection.ordering import conditioned_order
from softneuro_tvm.selection.pairwise import Table

_TABLE_LIMIT = 1 << 13
_PATIENCE = 3  # rounds without improvement, per variable


def improve(graph: FactorGraph, states: Mapping[int, int], deadline: float) -> dict[int, int]:
    """Improve a state vector until many random neighbourhoods in a row hold nothing better.

    A neighbourhood is all state vectors that agree on some fixed variables, so many that elimination finds the best
    of the others with small tables.

    Args:
        graph: It is not changed.
        states: Any state vector; what it does that is forbidden is undone first of all.
        deadline: When to stop, on the clock of `time.monotonic`.
    """
    rng = np.random.default_rng(0)
    soft = _soften(graph)
    best, cost = dict(states), total(soft, states)
    idle = 0
    while idle < _PATIENCE * len(best) and time.monotonic() < deadline:
        order, fixed = conditioned_order(soft, _TABLE_LIMIT, rng)
        rest = _condition(soft, {v: best[v] for v in fixed})
        buckets = [rest.eliminate(v) for v in order]
        idle += 1
        if rest.constant < cost:
            if rest.constant < cost - 1e-12 * abs(cost):
                idle = 0
            cost = rest.constant
            back_substitute(buckets, best)
    return best


def total(graph: FactorGraph, states: Mapping[int, int]) -> float:
    """The cost of a state vector in seconds."""
    tables = (float(table[tuple(states[v] for v in scope)]) for scope, table in graph.tables.items())
    return graph.constant + sum(tables)


def _soften(graph: FactorGraph) -> FactorGraph:
    """The graph with a finite cost on what is forbidden, above any difference of allowed costs."""
    penalty = sum(float(np.ptp(table[np.isfinite(table)])) for table in graph.tables.values())
    soft: dict[tuple[int, ...], Table] = {}
    for scope, table in graph.tables.items():
        finite = np.isfinite(table)
        soft[scope] = np.where(finite, table, table[finite].max() + penalty)
    result = FactorGraph(soft)
    result.constant = graph.constant
    return result


def _condition(graph: FactorGraph, fixed: Mapping[int, int]) -> FactorGraph:
    """The graph of the other variables when some are fixed."""
    result = FactorGraph({(v,): graph.tables[(v,)] for v in graph.variables if v not in fixed})
    result.constant = graph.constant
    for scope, table in graph.tables.items():
        free = tuple(v for v in scope if v not in fixed)
        if scope != free or len(scope) > 1:
            result.add(free, table[tuple(fixed.get(v, slice(None)) for v in scope)])
    return result
