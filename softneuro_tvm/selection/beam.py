"""A simpler strategy to compare with: beam search over the layers in their order, as MegEngine chooses layouts.

A partial choice fixes the states of the first variables. Of those that agree wherever the rest of the network can see
a difference only the cheapest is kept, and of the others the cheapest thousand: a choice that pays late may be dropped.
"""

from __future__ import annotations

import numpy as np

from softneuro_tvm.errors import SelectionError
from softneuro_tvm.selection.pairwise import PairwiseProblem, Solution, Table

WIDTH = 1024
"""Partial choices that are kept."""


def beam_search(problem: PairwiseProblem, width: int = WIDTH) -> Solution:
    """A good state vector; optimal where no step has more partial choices than `width`.

    Args:
        problem: Costs in seconds. Variables are fixed in the order in which their first neighbours are.
        width: Partial choices that are kept at each step.

    Raises:
        SelectionError: no partial choice could be completed.
    """
    order = _order(problem)
    place = {v: p for p, v in enumerate(order)}
    around: dict[int, dict[int, Table]] = {v: {} for v in order}
    for (i, j), table in problem.pairwise.items():
        around[i][j], around[j][i] = table, table.T
    last = {v: max([place[v], *(place[w] for w in around[v])]) for v in order}
    states, costs = np.zeros((1, len(order)), np.intp), np.zeros(1)
    for p, v in enumerate(order):
        extended = costs[:, None] + problem.unary[v]
        for w, table in around[v].items():
            if place[w] < p:
                extended = extended + table[:, states[:, place[w]]].T
        parents, chosen = np.nonzero(np.isfinite(extended))
        states, costs = states[parents], extended[parents, chosen]
        states[:, p] = chosen
        seen = [q for q in range(p + 1) if last[order[q]] > p]
        cheapest = np.argsort(costs, kind="stable")
        first: dict[bytes, int] = {}
        for position in cheapest:
            first.setdefault(states[position, seen].tobytes(), int(position))
        kept = list(first.values())[:width]
        states, costs = states[kept], costs[kept]
        if not costs.size:
            raise SelectionError(f"beam search of width {width} found no allowed choice; take a wider beam")
    best = int(costs.argmin()) if order else 0
    vector = tuple(int(states[best, place[v]]) for v in range(len(order)))
    return Solution(vector, problem.cost(vector), -np.inf, "beam search")


def _order(problem: PairwiseProblem) -> list[int]:
    """Each variable as its number says, but one that only connects others right after the first of them."""
    first = {v: v for v in range(len(problem.unary))}
    for i, j in problem.pairwise:
        if not problem.unary[j].any():
            first[j] = min(first[j], i)
    return sorted(first, key=lambda v: (first[v], v))
