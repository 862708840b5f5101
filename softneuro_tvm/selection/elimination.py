"""Exact elimination of variables from a sum of cost tables (min-plus bucket elimination).

Eliminating a variable replaces all tables that mention it by one table over its neighbours, which holds the cost of
its best state for each of their states. Variables with at most two neighbours leave a pairwise problem behind (the
reductions R0, RI and RII of partitioned boolean quadratic programming), so chains, diamonds and nested branches
vanish in linear time. Source: Dechter, "Bucket elimination", Artificial Intelligence 113 (1999); Scholz and Eckstein,
"Register allocation for irregular architectures", LCTES 2002.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from softneuro_tvm.selection.pairwise import PairwiseProblem, Table

Scope = tuple[int, ...]


class Lift(Protocol):
    """A simplification of a problem that knows how to extend a solution of the simpler problem to the problem."""

    def lift(self, states: dict[int, int]) -> None:
        """Update, in place, the states of a solution."""
        ...


@dataclass(frozen=True, eq=False)
class Bucket:
    """The tables that held a variable when it was eliminated.

    Attributes:
        variable: The eliminated variable.
        scope: It and its neighbours, ascending.
        shape: The number of states of each variable in `scope`.
        tables: The tables that mention it, each with its own scope.
    """

    variable: int
    scope: Scope
    shape: tuple[int, ...]
    tables: tuple[tuple[Scope, Table], ...]

    @property
    def axis(self) -> int:
        """Where the eliminated variable stands in `scope`."""
        return self.scope.index(self.variable)

    @property
    def neighbours(self) -> Scope:
        """The scope without the eliminated variable."""
        return tuple(v for v in self.scope if v != self.variable)

    def total(self) -> Table:
        """Sum of the tables. Shape `shape`."""
        result = np.zeros(self.shape)
        for scope, table in self.tables:
            result += table.reshape([size if v in scope else 1 for v, size in zip(self.scope, self.shape, strict=True)])
        return result

    def lift(self, states: dict[int, int]) -> None:
        """Give the variable its best state, the lowest among equals, for the states of its neighbours."""
        costs = np.zeros(self.shape[self.axis])
        for scope, table in self.tables:
            costs += table[tuple(slice(None) if v == self.variable else states[v] for v in scope)]
        states[self.variable] = int(costs.argmin())


class FactorGraph:
    """A constant plus a sum of cost tables over ascending tuples of variables.

    Every variable has a table of its own. Tables are never changed in place: they may be shared with the problem and
    with buckets. A constant of inf means that no state vector is feasible.

    Args:
        tables: The tables by scope. A table's axes follow its scope.
    """

    def __init__(self, tables: Mapping[Scope, Table]) -> None:
        self.constant = 0.0
        self.tables: dict[Scope, Table] = {}
        self._scopes: dict[int, set[Scope]] = {}
        self._unused = 1 + max((v for scope in tables for v in scope), default=-1)
        for scope, table in tables.items():
            for v in scope:
                self._scopes.setdefault(v, set())
            self.add(scope, table)

    @classmethod
    def of(cls, problem: PairwiseProblem) -> FactorGraph:
        """The graph of a pairwise problem."""
        tables: dict[Scope, Table] = {(i,): costs for i, costs in enumerate(problem.unary)}
        return cls(tables | dict(problem.pairwise))

    def copy(self) -> FactorGraph:
        """A graph that can be changed on its own; the tables are shared."""
        result = FactorGraph(self.tables)
        result.constant = self.constant
        result._unused = self._unused
        return result

    def new_variable(self, size: int) -> int:
        """Add a variable without costs; returns its number, above all that were ever used."""
        variable = self._unused
        self._unused += 1
        self._scopes[variable] = set()
        self.add((variable,), np.zeros(size))
        return variable

    @property
    def variables(self) -> list[int]:
        """The variables that are left, ascending."""
        return sorted(self._scopes)

    def size(self, variable: int) -> int:
        """Number of states."""
        return self.tables[(variable,)].size

    def scopes(self, variable: int) -> list[Scope]:
        """The scopes that hold a variable, in a fixed order."""
        return sorted(self._scopes[variable])

    def neighbours(self, variable: int) -> Scope:
        """The other variables that share a table with a variable, ascending."""
        return tuple(sorted({v for scope in self._scopes[variable] for v in scope} - {variable}))

    def edges(self) -> list[tuple[int, int]]:
        """Scopes of two variables, ascending."""
        return sorted((scope[0], scope[1]) for scope in self.tables if len(scope) == 2)

    def edges_of(self, variable: int) -> list[tuple[int, int]]:
        """Scopes of two variables that hold a variable, ascending."""
        return [(scope[0], scope[1]) for scope in self.scopes(variable) if len(scope) == 2]

    def oriented(self, variable: int, edge: tuple[int, int]) -> Table:
        """An edge's table with the states of `variable` as rows."""
        table = self.tables[edge]
        return table if edge[0] == variable else table.T

    def add(self, scope: Scope, table: Table) -> None:
        """Add a table to the sum."""
        if not scope:
            self.constant += float(table)
            return
        known = self.tables.get(scope)
        self.tables[scope] = table if known is None else known + table
        for v in scope:
            self._scopes[v].add(scope)

    def remove(self, scope: Scope) -> Table:
        """Take a table out of the sum."""
        for v in scope:
            self._scopes[v].discard(scope)
        return self.tables.pop(scope)

    def restrict(self, keep: Mapping[int, NDArray[np.intp]]) -> None:
        """Keep only the given states, in the given order, of some variables."""
        for v, states in keep.items():
            for scope in self._scopes[v]:
                self.tables[scope] = self.tables[scope].take(states, axis=scope.index(v))

    def eliminate(self, variable: int) -> Bucket:
        """Minimise a variable out; the graph then describes the rest exactly."""
        scopes = self.scopes(variable)
        scope = tuple(sorted({v for s in scopes for v in s}))
        shape = tuple(self.size(v) for v in scope)
        bucket = Bucket(variable, scope, shape, tuple((s, self.remove(s)) for s in scopes))
        del self._scopes[variable]
        self.add(bucket.neighbours, bucket.total().min(axis=bucket.axis))
        return bucket


def eliminate_low_degree(graph: FactorGraph) -> Iterator[Bucket]:
    """Eliminate variables with at most two neighbours until none is left."""
    queue = deque(graph.variables)
    gone = set[int]()
    while queue:
        v = queue.popleft()
        if v in gone:
            continue
        around = graph.neighbours(v)
        if len(around) <= 2:
            gone.add(v)
            yield graph.eliminate(v)
            queue.extend(around)


def back_substitute(lifts: Iterable[Lift], states: dict[int, int]) -> None:
    """Undo simplifications, the last one first, extending `states` in place to a solution of the first problem."""
    for lift in reversed(list(lifts)):
        lift.lift(states)


def bucket_marginals(buckets: Sequence[Bucket], constant: float) -> dict[int, Table]:
    """Cost of the best state vector for each state of each variable, after all variables were eliminated.

    Goes backward over the buckets: what the rest of the graph costs for the states of a bucket's neighbours is the
    minimum there of the bucket that eliminated the first of them.

    Args:
        buckets: All buckets in the order of elimination.
        constant: The graph's constant before the first elimination.

    Returns:
        Per variable, a vector with one cost per state; inf where no state vector is feasible.
    """
    position = {bucket.variable: p for p, bucket in enumerate(buckets)}
    children: list[list[int]] = [[] for _ in buckets]
    optima: dict[int, float] = {}  # of the connected components, by the position of their last bucket
    for p, bucket in enumerate(buckets):
        if bucket.neighbours:
            children[min(position[v] for v in bucket.neighbours)].append(p)
        else:
            optima[p] = float(bucket.total().min())
    optimum = constant + sum(optima.values())
    outside: dict[int, Table] = {}
    result: dict[int, Table] = {}
    for p in reversed(range(len(buckets))):
        bucket = buckets[p]
        belief = bucket.total()
        if p in optima:
            belief += optimum - optima[p]
        else:
            message = belief.min(axis=bucket.axis)
            feasible = np.isfinite(message)
            rest = np.full(message.shape, np.inf)
            np.subtract(outside.pop(p), message, out=rest, where=feasible)
            belief += np.expand_dims(rest, bucket.axis)
        others = tuple(a for a in range(belief.ndim) if a != bucket.axis)
        result[bucket.variable] = belief.min(axis=others)
        for child in children[p]:
            keep = buckets[child].neighbours
            outside[child] = belief.min(axis=tuple(a for a, v in enumerate(bucket.scope) if v not in keep))
    return result
