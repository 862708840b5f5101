"""Exact minimisation of pairwise problems: the mathematics of DPRS (dynamic programming for routine selection)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from softneuro_tvm.errors import SelectionError
from softneuro_tvm.selection.elimination import FactorGraph, bucket_marginals
from softneuro_tvm.selection.ordering import plan_elimination
from softneuro_tvm.selection.pairwise import PairwiseProblem, Solution, Table
from softneuro_tvm.selection.reductions import Twins, find_twins, fold_separable_edges, make_arc_consistent, restrict
from softneuro_tvm.selection.search import Search

__all__ = ["PairwiseProblem", "Solution", "conflict", "greedy", "marginals", "solve"]

_TABLE_LIMIT = 4_000_000
_TIME_LIMIT_S = 30.0
_CONFLICT_TIME_LIMIT_S = 1.0


def solve(
    problem: PairwiseProblem, *, table_limit: int = _TABLE_LIMIT, time_limit_s: float = _TIME_LIMIT_S
) -> Solution:
    """Find a state vector of least cost, with a proof or a stated gap.

    Unless time runs out, the same problem always gives the same answer; where states of a variable cost the same, the
    lowest index wins.

    Args:
        problem: Costs in seconds.
        table_limit: The most entries of a table in elimination; a core that needs more goes to an integer programme.
        time_limit_s: When bounds and the integer programme stop; the best solution so far is returned with its lower
            bound.

    Raises:
        SelectionError: If no state vector is feasible, naming variables that cannot be satisfied together, or if
            none was found in time.
    """
    search = _run(problem, table_limit, time_limit_s)
    if search.solution is not None:
        return search.solution
    if search.infeasible:
        raise _no_solution(problem)
    raise SelectionError(
        f"found no allowed combination of states of {len(problem.unary)} variables within {time_limit_s} s; "
        "raise the time limit or the table limit"
    )


def least_cost(problem: PairwiseProblem) -> float:
    """Cost of the best state vector; infinite if none is feasible, or if none was found in time."""
    search = _run(problem)
    return math.inf if search.solution is None else search.solution.cost


def marginals(
    problem: PairwiseProblem, *, table_limit: int = _TABLE_LIMIT, time_limit_s: float = _TIME_LIMIT_S
) -> list[Table]:
    """Cost of the best state vector that uses each state: exact min-marginals.

    One forward and one backward pass over the elimination give them all. Where its tables would be too large, each
    state is fixed in turn and the rest solved anew, which takes far longer.

    Args:
        problem: Costs in seconds.
        table_limit: The most entries of a table in elimination.
        time_limit_s: For all solutions with a fixed state together, if it comes to that.

    Returns:
        Per variable, a vector of shape (k_i,) in seconds; inf where no feasible state vector uses the state.

    Raises:
        SelectionError: If no state vector is feasible, or if time ran out.
    """
    graph = FactorGraph.of(problem)
    consistent = make_arc_consistent(graph).kept
    if np.isinf(graph.constant):
        raise _no_solution(problem)
    twins: dict[int, Twins] = {}
    for v in graph.variables:
        twins[v] = find_twins(graph, v)
        restrict(graph, {v: twins[v].kept})
    fold_separable_edges(graph)
    plan = plan_elimination(graph, table_limit)
    if plan is None:
        return _marginals_by_fixing(problem, table_limit, time_limit_s)
    graph, order = plan
    constant = graph.constant
    buckets = [graph.eliminate(v) for v in order]
    if np.isinf(graph.constant):
        raise _no_solution(problem)
    inner = bucket_marginals(buckets, constant)
    result: list[Table] = []
    for v, costs in enumerate(problem.unary):
        full = np.full(costs.shape, np.inf)
        full[consistent.get(v, slice(None))] = inner[v][twins[v].representative] + twins[v].extra
        result.append(full)
    return result


def greedy(problem: PairwiseProblem) -> Solution:
    """Give each variable its own cheapest state, then pay what the pairs cost.

    Where a variable has several cheapest states, those are taken that the pairs make cheapest. If every such choice is
    forbidden, the states are repaired: the variables share the least sum of unary costs that is allowed.

    Raises:
        SelectionError: If no state vector is feasible.
    """
    lower = sum(float(costs.min()) for costs in (*problem.unary, *problem.pairwise.values()))
    search = _run(_tied(problem, [int(costs.argmin()) for costs in problem.unary]))
    if search.solution is not None:
        return Solution(search.solution.states, search.solution.cost, lower, "greedy")
    allowed = solve(PairwiseProblem(problem.unary, _masks(problem)))
    repaired = solve(_tied(problem, allowed.states))
    return Solution(repaired.states, repaired.cost, lower, "greedy+repair")


def conflict(problem: PairwiseProblem) -> tuple[int, ...]:
    """Variables that cannot be satisfied together, none of which can be left out; empty if no such were found in time.

    Source: Junker, "QuickXplain", AAAI 2004, in the simpler form with a bisection per member.
    """
    hard = PairwiseProblem(tuple(np.where(np.isinf(c), np.inf, 0.0) for c in problem.unary), _masks(problem))
    members: list[int] = []
    rest = list(range(len(problem.unary)))
    if not _is_infeasible(hard, rest):
        return ()
    while rest and not _is_infeasible(hard, members):
        low, high = 0, len(rest)  # the shortest infeasible prefix of rest is longer than low, at most high
        while high - low > 1:
            middle = (low + high) // 2
            if _is_infeasible(hard, members + rest[:middle]):
                high = middle
            else:
                low = middle
        members.append(rest[high - 1])
        rest = rest[: high - 1]
    return tuple(sorted(members))


def _marginals_by_fixing(problem: PairwiseProblem, table_limit: int, time_limit_s: float) -> list[Table]:
    deadline = time.monotonic() + time_limit_s
    result: list[Table] = []
    for v, costs in enumerate(problem.unary):
        best = np.full(costs.shape, np.inf)
        for state in range(costs.size):
            fixed = np.full(costs.shape, np.inf)
            fixed[state] = costs[state]
            unary = (*problem.unary[:v], fixed, *problem.unary[v + 1 :])
            search = _run(PairwiseProblem(unary, problem.pairwise), table_limit, deadline - time.monotonic())
            if search.infeasible:
                continue
            if search.solution is None or search.solution.lower_bound < search.solution.cost:
                raise SelectionError(
                    f"the cost of the best plans that use state {state} of variable {v} was not found within "
                    f"{time_limit_s} s; raise the time limit or the table limit"
                )
            best[state] = search.solution.cost
        if np.isinf(best).all():
            raise _no_solution(problem)
        result.append(best)
    return result


def _no_solution(problem: PairwiseProblem) -> SelectionError:
    names = ", ".join(map(str, conflict(problem)))
    return SelectionError(
        f"no combination of states is allowed: variable(s) {names} cannot be satisfied together; "
        "give one of them another candidate, or allow a conversion between them"
    )


def _run(problem: PairwiseProblem, table_limit: int = _TABLE_LIMIT, time_limit_s: float = _TIME_LIMIT_S) -> Search:
    search = Search(problem, table_limit, time.monotonic() + time_limit_s)
    search.run()
    return search


def _tied(problem: PairwiseProblem, states: Sequence[int]) -> PairwiseProblem:
    """The problem where each variable may only use states that cost as much, by themselves, as the given one."""
    unary = (np.where(c == c[s], c, np.inf) for c, s in zip(problem.unary, states, strict=True))
    return PairwiseProblem(tuple(unary), problem.pairwise)


def _masks(problem: PairwiseProblem) -> dict[tuple[int, int], Table]:
    """The pairwise tables that forbid something, with all else free."""
    return {
        edge: np.where(np.isinf(costs), np.inf, 0.0)
        for edge, costs in problem.pairwise.items()
        if np.isinf(costs).any()
    }


def _is_infeasible(problem: PairwiseProblem, variables: list[int]) -> bool:
    """Whether it is proved, in a short time, that the variables cannot be satisfied even without all others."""
    index = {v: p for p, v in enumerate(sorted(variables))}
    pairs = {(index[i], index[j]): table for (i, j), table in problem.pairwise.items() if i in index and j in index}
    part = PairwiseProblem(tuple(problem.unary[v] for v in index), pairs)
    return _run(part, time_limit_s=_CONFLICT_TIME_LIMIT_S).infeasible
