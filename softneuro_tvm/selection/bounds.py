"""Lower bounds, good solutions and provably useless states of a pairwise problem, by dual ascent.

The ascent moves costs between the tables of states and of pairs without changing the total of any state vector, until
the sum of the tables' minima, a lower bound, no longer grows. Whatever a state costs above that bound proves that it
is in no better solution than the best known one. Source: Kolmogorov, "Convergent tree-reweighted message passing for
energy minimization", IEEE PAMI 28 (2006), in the reparametrised form of "A new look at reweighted message passing",
IEEE PAMI 37 (2015).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softneuro_tvm.selection.elimination import FactorGraph
from softneuro_tvm.selection.local_search import improve, total
from softneuro_tvm.selection.pairwise import RELATIVE_GAP, Table, is_proved

_MAX_PASSES = 400
_PATIENCE = 10  # pairs of passes over which the bound must close a share of the gap
_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class Bounds:
    """What dual ascent found.

    Attributes:
        lower: No state vector costs less, in seconds, the graph's constant included.
        upper: The cost of `states`; inf if no feasible state vector was found.
        states: The best state vector found, by variable.
        floors: Per variable, a lower bound on the cost of every state vector that uses each state.
    """

    lower: float
    upper: float
    states: dict[int, int]
    floors: dict[int, Table]

    def useful(self, upper: float) -> dict[int, NDArray[np.intp]]:
        """Per variable, the states that may be in a solution that costs at most `upper`."""
        limit = upper + RELATIVE_GAP * abs(upper)  # some slack, so that rounding never excludes the best
        return {v: np.flatnonzero(floor <= limit) for v, floor in self.floors.items()}


def dual_ascent(graph: FactorGraph, upper: float, deadline: float) -> Bounds:
    """Bound an arc-consistent pairwise graph from both sides.

    Args:
        graph: It is not changed.
        upper: The cost of a known solution, or inf: passes stop when the bound reaches it.
        deadline: When to stop, on the clock of `time.monotonic`.
    """
    state = _Reparametrisation(graph)
    best: dict[int, int] = {}
    found = np.inf
    history: list[float] = []
    for _ in range(_MAX_PASSES // 2):
        state.sweep(forward=True)
        states = state.decode()
        cost = total(graph, states)
        if cost < found or not best:
            found, best = cost, states
        state.sweep(forward=False)
        history.append(state.lower)
        target = min(found, upper)
        if is_proved(target, state.lower) or time.monotonic() > deadline:
            break
        worthwhile = _SHARE * min(target - state.lower, abs(state.lower))
        if len(history) > _PATIENCE and history[-1] - history[-1 - _PATIENCE] <= worthwhile:
            break
    if not is_proved(min(found, upper), state.lower):
        cheapest = {v: int(graph.tables[(v,)].argmin()) for v in graph.variables}
        improved = [improve(graph, start, deadline) for start in (best, cheapest)]
        best = min(improved, key=lambda states: total(graph, states))
    return Bounds(state.lower, total(graph, best), best, state.floors)


class _Reparametrisation:
    """Tables that are rewritten in place without negative costs; what all state vectors pay is moved to `lower`."""

    def __init__(self, graph: FactorGraph) -> None:
        self.order = graph.variables
        self.lower = graph.constant
        self.unary = {v: graph.tables[(v,)].copy() for v in self.order}
        self.floors = {v: np.full(graph.size(v), -np.inf) for v in self.order}
        # Both variables of an edge see the same memory, each with its own states as rows.
        self.rows: dict[int, dict[int, Table]] = {v: {} for v in self.order}
        for i, j in graph.edges():
            table = graph.tables[i, j].copy()
            self.rows[i][j], self.rows[j][i] = table, table.T
        # From here on no cost is negative, so that whatever part is left out of a sum leaves a bound.
        for table in (*self.unary.values(), *(self.rows[i][j] for i, j in graph.edges())):
            low = float(table.min())
            self.lower += low
            table -= low

    def sweep(self, forward: bool) -> None:
        """Pull each variable's costs out of its edges, keep the minimum as bound, push the rest ahead."""
        for v in self.order if forward else reversed(self.order):
            costs, rows = self.unary[v], self.rows[v]
            for table in rows.values():
                least = table.min(axis=1)
                costs += least
                table -= least[:, None]
            low = float(costs.min())
            self.lower += low
            costs -= low
            np.maximum(self.floors[v], self.lower + costs, out=self.floors[v])
            ahead = [table for w, table in rows.items() if (w > v) == forward]
            if ahead:
                share = costs / max(len(ahead), len(rows) - len(ahead))
                for table in ahead:
                    table += share[:, None]
                costs -= share * len(ahead)

    def decode(self) -> dict[int, int]:
        """After a forward sweep: the best state of each variable, the last one first, given the later ones."""
        states: dict[int, int] = {}
        for v in reversed(self.order):
            costs = self.unary[v].copy()
            forbidden = np.zeros(costs.size)
            for w, table in self.rows[v].items():
                if w > v:
                    column = table[:, states[w]]
                    forbidden += np.isinf(column)
                    costs += np.where(np.isinf(column), 0.0, column)
            costs[forbidden > forbidden.min()] = np.inf
            states[v] = int(costs.argmin())
        return states
