"""In which order to eliminate variables, so that the tables stay small."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from softneuro_tvm.selection.elimination import FactorGraph
from softneuro_tvm.selection.sharing import share_constraints


def elimination_order(graph: FactorGraph, table_limit: int) -> list[int] | None:
    """An order in which no elimination needs more than `table_limit` entries, if a heuristic finds one.

    Tries min-fill (tie: smallest table), then smallest table (tie: min-fill).
    """
    for fill_first in (True, False):
        interaction = _Interaction(graph, fill_first)
        order: list[int] = []
        while interaction.scores:
            v, entries = interaction.best()
            if entries > table_limit:
                break
            order.append(v)
            interaction.eliminate(v)
        else:
            return order
    return None


def conditioned_order(graph: FactorGraph, table_limit: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Split the variables into some to fix, drawn at random, and an order that eliminates the rest with small tables.

    Returns:
        The order and the variables to fix.
    """
    interaction = _Interaction(graph, fill_first=False)
    order: list[int] = []
    fixed: list[int] = []
    while interaction.scores:
        v, entries = interaction.best()
        if entries <= table_limit:
            order.append(v)
            interaction.eliminate(v)
        else:
            fixed.append(int(rng.choice(interaction.neighbours(v))))
            interaction.remove(fixed[-1])
    return order, fixed


def plan_elimination(graph: FactorGraph, table_limit: int) -> tuple[FactorGraph, list[int]] | None:
    """An elimination order within the limit for a pairwise graph, or for its equivalent with shared constraints."""
    order = elimination_order(graph, table_limit)
    if order is not None:
        return graph, order
    shared = share_constraints(graph)
    order = None if shared is None else elimination_order(shared, table_limit)
    return None if shared is None or order is None else (shared, order)


class _Interaction:
    """Which variables share a table, as bit masks, while variables are eliminated or removed."""

    def __init__(self, graph: FactorGraph, fill_first: bool) -> None:
        self._fill_first = fill_first
        self._adjacent = {v: sum(1 << w for w in graph.neighbours(v)) for v in graph.variables}
        self._sizes = {v: graph.size(v) for v in graph.variables}
        self.scores = {v: self._score(v) for v in self._adjacent}

    def best(self) -> tuple[int, int]:
        """The variable to eliminate next, and the entries of the table that this needs."""
        score = min(self.scores.values())
        return score[2], score[1 if self._fill_first else 0]

    def neighbours(self, variable: int) -> list[int]:
        """The variables that share a table with a variable, ascending."""
        return list(_bits(self._adjacent[variable]))

    def eliminate(self, variable: int) -> None:
        """Drop a variable and connect its neighbours with each other."""
        around = self._adjacent[variable]
        for w in _bits(around):
            self._adjacent[w] |= around & ~(1 << w)
        self.remove(variable)

    def remove(self, variable: int) -> None:
        """Drop a variable."""
        del self.scores[variable]
        around = self._adjacent.pop(variable)
        stale = around
        for w in _bits(around):
            self._adjacent[w] &= ~(1 << variable)
            stale |= self._adjacent[w]
        for w in _bits(stale):
            self.scores[w] = self._score(w)

    def _score(self, v: int) -> tuple[int, int, int]:
        around = self._adjacent[v]
        missing = sum((around & ~self._adjacent[w]).bit_count() - 1 for w in _bits(around)) // 2
        entries = math.prod((self._sizes[w] for w in _bits(around)), start=self._sizes[v])
        return (missing, entries, v) if self._fill_first else (entries, missing, v)


def _bits(mask: int) -> Iterator[int]:
    """The positions of the ones in a bit mask, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
