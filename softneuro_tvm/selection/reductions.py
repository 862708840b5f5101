"""Reductions that shrink a pairwise problem and keep an optimal solution: fewer states, fewer edges.

Source: Mackworth, "Consistency in networks of relations", Artificial Intelligence 8 (1977); Goldstein, "Efficient
rotamer elimination", Biophysical Journal 66 (1994).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softneuro_tvm.selection.elimination import FactorGraph
from softneuro_tvm.selection.pairwise import Table

# An edge counts as a sum of two vectors if it is one up to this many units in the last place.
_ROUNDING = 8 * np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class Restriction:
    """Some variables lost states.

    Attributes:
        kept: Per such variable, the former index of each state that is left.
    """

    kept: Mapping[int, NDArray[np.intp]]

    def lift(self, states: dict[int, int]) -> None:
        """Translate states to their former indices."""
        for v, kept in self.kept.items():
            states[v] = int(kept[states[v]])


@dataclass(frozen=True, eq=False)
class Twins:
    """States of one variable that the rest of the problem cannot tell apart.

    Attributes:
        representative: Per state, the index (among the representatives) of the cheapest state that is like it.
        extra: Per state, what it costs more than its representative, in seconds; inf for a forbidden state.
        kept: Per representative, its former index.
    """

    representative: NDArray[np.intp]
    extra: Table
    kept: NDArray[np.intp]


def restrict(graph: FactorGraph, states: Mapping[int, NDArray[np.intp]]) -> Restriction:
    """Keep only the given states, by index and ascending, of some variables."""
    kept = {v: indices for v, indices in states.items() if indices.size < graph.size(v)}
    graph.restrict(kept)
    return Restriction(kept)


def make_arc_consistent(graph: FactorGraph) -> Restriction:
    """Remove states that are forbidden, or that lack an allowed state in some neighbour.

    If a variable loses all its states, the graph's constant becomes inf and nothing else changes.
    """
    alive: dict[int, NDArray[np.bool_]] = {v: np.isfinite(graph.tables[(v,)]) for v in graph.variables}
    allowed = {edge: np.isfinite(graph.tables[edge]) for edge in graph.edges()}
    queue = dict.fromkeys(edge for edge, mask in allowed.items() if not mask.all())
    constraining = set(queue)
    while queue:
        edge = next(iter(queue))
        del queue[edge]
        i, j = edge
        mask = allowed[edge] & alive[i][:, None] & alive[j]
        for v, axis in ((i, 1), (j, 0)):
            supported: NDArray[np.bool_] = np.any(mask, axis=axis)
            if (supported != alive[v]).any():
                alive[v] = supported
                queue |= dict.fromkeys(s for s in graph.edges_of(v) if s in constraining and s != edge)
    if not all(mask.any() for mask in alive.values()):
        graph.constant = np.inf
        return Restriction({})
    return restrict(graph, {v: np.flatnonzero(mask) for v, mask in alive.items()})


def find_twins(graph: FactorGraph, variable: int) -> Twins:
    """Group the states of a variable whose rows are equal in every edge."""
    costs = graph.tables[(variable,)]
    rows = [graph.oriented(variable, edge) for edge in graph.edges_of(variable)]
    joined = np.concatenate([*rows, np.zeros((costs.size, 0))], axis=1)
    # -0.0 and 0.0 differ as bytes; adding 0.0 makes them equal.
    keys = [row.tobytes() for row in joined + 0.0]
    cheapest: dict[bytes, int] = {}
    for state, key in enumerate(keys):
        if key not in cheapest or costs[state] < costs[cheapest[key]]:
            cheapest[key] = state
    kept = np.array(sorted(cheapest.values()), dtype=np.intp)
    index = {int(state): p for p, state in enumerate(kept)}
    representative = np.array([index[cheapest[key]] for key in keys], dtype=np.intp)
    base = costs[kept][representative]
    extra = np.subtract(costs, base, out=np.full(costs.shape, np.inf), where=np.isfinite(costs))
    return Twins(representative, extra, kept)


def merge_twins(graph: FactorGraph) -> Restriction:
    """Keep only the cheapest (the first among equals) of states that the rest cannot tell apart."""
    kept: dict[int, NDArray[np.intp]] = {}
    for v in graph.variables:
        kept |= restrict(graph, {v: find_twins(graph, v).kept}).kept
    return Restriction(kept)


def remove_dominated(graph: FactorGraph) -> Restriction:
    """Remove states that another state of the same variable never loses to, whatever the neighbours do.

    Expects an arc-consistent pairwise graph.
    """
    kept: dict[int, NDArray[np.intp]] = {}
    for v in graph.variables:
        if graph.size(v) > 1:
            kept |= restrict(graph, {v: _undominated(graph, v)}).kept
    return Restriction(kept)


def fold_separable_edges(graph: FactorGraph) -> int:
    """Replace edges that are a sum of two vectors by those vectors; returns how many."""
    folded = 0
    for i, j in graph.edges():
        table = graph.tables[i, j]
        if not np.isfinite(table).all():
            continue
        row, column = table[:1] - table[0, 0], table[:, :1]
        if (np.abs(table - row - column) <= _ROUNDING * np.abs(table).max()).all():
            graph.remove((i, j))
            graph.add((i,), column[:, 0])
            graph.add((j,), row[0])
            folded += 1
    return folded


def _undominated(graph: FactorGraph, variable: int) -> NDArray[np.intp]:
    costs = graph.tables[(variable,)]
    gain = costs[:, None] - costs  # [a, b]: what a plan that uses state a saves, at least, by using b instead
    for edge in graph.edges_of(variable):
        table = graph.oriented(variable, edge)
        with np.errstate(invalid="ignore"):
            difference = table[:, None, :] - table[None, :, :]
        # Where a is forbidden no plan uses it, whatever b costs there (and inf - inf is nan).
        difference[np.broadcast_to(np.isinf(table)[:, None, :], difference.shape)] = np.inf
        gain += difference.min(axis=2)
    alive = np.ones(costs.size, dtype=np.bool_)
    np.fill_diagonal(gain, -np.inf)
    for state in reversed(range(costs.size)):
        alive[state] = not (gain[state, alive] >= 0.0).any()
    return np.flatnonzero(alive)
