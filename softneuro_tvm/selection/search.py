"""One run of the exact solver: simplify until nothing is left, or hand over the core.

Every simplification keeps an optimal solution: forbidden, dominated and indistinguishable states go, variables with
at most two neighbours are eliminated, states go that dual bounds exclude. A core that resists is eliminated with
larger tables, or, where those would be too large, left to an integer programme.
"""

from __future__ import annotations

import time

import numpy as np

from softneuro_tvm.selection.bounds import dual_ascent
from softneuro_tvm.selection.elimination import FactorGraph, Lift, back_substitute, eliminate_low_degree
from softneuro_tvm.selection.ordering import plan_elimination
from softneuro_tvm.selection.pairwise import PairwiseProblem, Solution, is_proved
from softneuro_tvm.selection.reductions import (
    Restriction,
    fold_separable_edges,
    make_arc_consistent,
    merge_twins,
    remove_dominated,
    restrict,
)

# Eliminating with tables up to this many entries is cheaper than computing bounds first.
_SMALL_TABLE = 1 << 16
# Bounds are computed again if at most this share of the states is left.
_WORTHWHILE = 0.9


class Search:
    """The state of one run.

    Args:
        problem: What to solve.
        table_limit: The most entries of a table in elimination.
        deadline: When bounds and the integer programme stop, on the clock of `time.monotonic`.

    Attributes:
        solution: The best solution found; None before `run`, or if none was found.
    """

    def __init__(self, problem: PairwiseProblem, table_limit: int, deadline: float) -> None:
        self.problem = problem
        self.table_limit = table_limit
        self.deadline = deadline
        self.solution: Solution | None = None
        self._graph = FactorGraph.of(problem)
        self._lifts: list[Lift] = []
        self._method = "elimination"

    @property
    def infeasible(self) -> bool:
        """Whether it is proved that no state vector is feasible."""
        return bool(np.isposinf(self._graph.constant))

    def run(self) -> None:
        """Set `solution`, or become `infeasible`, or neither if time ran out."""
        self._apply(make_arc_consistent(self._graph))
        if not self.infeasible:
            self._apply(merge_twins(self._graph))
            self._reduce()
        while not (self.infeasible or self._eliminate(_SMALL_TABLE)):
            worthwhile = self._tighten()
            if self._proved:
                return
            self._reduce()
            if not worthwhile:
                if not self._eliminate(self.table_limit):
                    self._integer_programme()
                return

    @property
    def _proved(self) -> bool:
        return self.solution is not None and self.solution.lower_bound == self.solution.cost

    def _apply(self, restriction: Restriction) -> bool:
        """Remember how to undo a restriction; returns whether it removed anything."""
        if restriction.kept:
            self._lifts.append(restriction)
        return bool(restriction.kept)

    def _reduce(self) -> None:
        """Apply the reductions that keep the problem pairwise until none applies."""
        graph = self._graph
        while True:
            self._lifts.extend(eliminate_low_degree(graph))
            if self.infeasible:
                return
            changed = self._apply(make_arc_consistent(graph))
            if self.infeasible:
                return
            changed |= self._apply(remove_dominated(graph))
            changed |= fold_separable_edges(graph) > 0
            if not changed:
                return

    def _eliminate(self, table_limit: int) -> bool:
        """Eliminate all variables, if the tables stay within the limit; returns whether they do."""
        plan = plan_elimination(self._graph, min(table_limit, self.table_limit))
        if plan is None:
            return False
        self._graph, order = plan
        self._lifts.extend(self._graph.eliminate(v) for v in order)
        if not self.infeasible:
            self._offer({}, np.inf)
        return True

    def _tighten(self) -> bool:
        """Compute bounds and drop the states they exclude; returns whether enough went to try again."""
        self._method = "elimination+bounds"
        known = np.inf if self.solution is None else self.solution.cost
        bounds = dual_ascent(self._graph, known, self.deadline)
        self._offer(bounds.states, bounds.lower)
        if self.solution is None or self._proved:
            return False
        before = sum(self._graph.size(v) for v in self._graph.variables)
        self._apply(restrict(self._graph, bounds.useful(self.solution.cost)))
        return sum(self._graph.size(v) for v in self._graph.variables) <= _WORTHWHILE * before

    def _integer_programme(self) -> None:
        """Leave the core to HiGHS."""
        from softneuro_tvm.selection.milp import solve_milp  # scipy takes half a second to import

        self._method = "elimination+milp"
        result = solve_milp(self._graph, self.deadline - time.monotonic())
        if result.lower == np.inf and self.solution is None:
            self._graph.constant = np.inf
        else:
            self._offer(result.states, np.inf if result.optimal else result.lower)

    def _offer(self, states: dict[int, int] | None, lower: float) -> None:
        """Take a solution of the core if it is the best so far, and a lower bound on all; inf says nothing is better.

        Without states, or with forbidden ones, only the bound is taken.
        """
        best = self.solution
        known = -np.inf if best is None else best.lower_bound
        if states is not None:
            full = dict(states)
            back_substitute(self._lifts, full)
            vector = tuple(full[v] for v in range(len(self.problem.unary)))
            cost = self.problem.cost(vector)
            if np.isfinite(cost) and (best is None or cost <= best.cost):
                best = Solution(vector, cost, known, self._method)
        if best is not None:
            bound = max(lower, known)
            bound = best.cost if is_proved(best.cost, bound) else bound
            self.solution = Solution(best.states, best.cost, bound, self._method)
