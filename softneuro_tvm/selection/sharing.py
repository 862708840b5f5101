"""Rewrites many-to-many constraints as a chain, so that elimination stays cheap on densely connected networks.

When every reader of a tensor needs it in its own format, and the tensor's state says which formats it is available in,
then a block in which each tensor is read by all later layers connects each tensor with each layer: no order of
elimination has small tables. But a reader only asks whether *all* its tensors allow its state. So the tensors are
strung on a chain of new variables, each holding what the tensors so far allow together, and a reader looks at one of
them. There are few such sets: with four formats, fifteen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softneuro_tvm.selection.elimination import FactorGraph
from softneuro_tvm.selection.pairwise import Table

# What several variables allow: per reader, a bit mask of its states.
Allowance = tuple[int, ...]

_MAX_SETS = 128


@dataclass(frozen=True)
class Chain:
    """Variables whose constraints on readers are nested.

    Attributes:
        providers: The variables; each constrains a subset of the readers of the one before.
        readers: Per provider, the variables that it constrains, ascending.
        links: Per provider, the sets that it and those before it may allow its readers together.
    """

    providers: tuple[int, ...]
    readers: tuple[tuple[int, ...], ...]
    links: tuple[tuple[Allowance, ...], ...]


def share_constraints(graph: FactorGraph) -> FactorGraph | None:
    """An equivalent graph where chains of new variables, without costs, carry many-to-many constraints.

    Args:
        graph: A pairwise graph. It is not changed.

    Returns:
        None if there is nothing to rewrite. A solution restricted to the old variables solves the old graph.
    """
    result: FactorGraph | None = None
    while (chain := _find_chain(graph if result is None else result)) is not None:
        result = graph.copy() if result is None else result
        _rewrite(result, chain)
    return result


def _find_chain(graph: FactorGraph) -> Chain | None:
    """The chain that saves most edges."""
    adjacent = _constraints(graph)
    best: Chain | None = None
    most = 0
    for seed in graph.variables:
        readers = {c for c in adjacent[seed] if len(adjacent[c]) > 1}
        if len(readers) < 2:
            continue
        shared = {v: adjacent[v] & readers for c in readers for v in adjacent[c] if v not in readers}
        providers: list[int] = []
        nested: list[tuple[int, ...]] = []
        left = readers
        for v in sorted(shared, key=lambda v: (-len(shared[v]), v)):
            if len(shared[v]) > 1 and shared[v] <= left:
                left = shared[v]
                providers.append(v)
                nested.append(tuple(sorted(left)))
        # Each provider needs an edge to its link and a link to the next; each reader one edge.
        saved = sum(map(len, nested)) - 2 * len(providers) - len(readers)
        if saved > most:
            links = _links(graph, providers, nested)
            if links is not None:
                best, most = Chain(tuple(providers), tuple(nested), links), saved
    return best


def _constraints(graph: FactorGraph) -> dict[int, set[int]]:
    """Per variable, the neighbours to which it is tied by an edge that only allows or forbids."""
    adjacent: dict[int, set[int]] = {v: set() for v in graph.variables}
    for i, j in graph.edges():
        table = graph.tables[i, j]
        if ((table == 0.0) | np.isinf(table)).all():
            adjacent[i].add(j)
            adjacent[j].add(i)
    return adjacent


def _links(
    graph: FactorGraph, providers: Sequence[int], readers: Sequence[tuple[int, ...]]
) -> tuple[tuple[Allowance, ...], ...] | None:
    """The sets for each link of a chain; None if there are too many, or if the providers contradict each other."""
    links: list[tuple[Allowance, ...]] = []
    for step, provider in enumerate(providers):
        sets = set(_allowances(graph, provider, readers[step]))
        if links:
            before = {_narrow(a, readers[step - 1], readers[step]) for a in links[-1]}
            if len(before) * len(sets) > _MAX_SETS**2:
                return None
            sets = {_meet(a, b) for a in before for b in sets}
        sets = {a for a in sets if all(a)}
        if not 0 < len(sets) <= _MAX_SETS:
            return None
        links.append(tuple(sorted(sets)))
    return tuple(links)


def _rewrite(graph: FactorGraph, chain: Chain) -> None:
    """Replace the constraints of a chain by links, in place."""
    later = (*chain.readers[1:], ())
    previous = -1
    for step, (provider, readers, sets) in enumerate(zip(chain.providers, chain.readers, chain.links, strict=True)):
        link = graph.new_variable(len(sets))
        _connect(graph, provider, link, [[_within(a, b) for a in sets] for b in _allowances(graph, provider, readers)])
        if step:
            wider = [_narrow(b, chain.readers[step - 1], readers) for b in chain.links[step - 1]]
            _connect(graph, previous, link, [[_within(a, b) for a in sets] for b in wider])
        previous = link
        for position, c in enumerate(readers):
            graph.remove((min(provider, c), max(provider, c)))
            if c not in later[step]:
                _connect(graph, c, link, [[bool(a[position] >> s & 1) for a in sets] for s in range(graph.size(c))])


def _connect(graph: FactorGraph, variable: int, link: int, allowed: Sequence[Sequence[bool]]) -> None:
    table: Table = np.where(np.array(allowed, dtype=np.bool_), 0.0, np.inf)
    graph.add((variable, link), table)


def _allowances(graph: FactorGraph, provider: int, readers: Sequence[int]) -> list[Allowance]:
    """Per state of a provider, what it allows each reader."""
    masks: list[list[int]] = []
    for c in readers:
        allowed = np.isfinite(graph.oriented(provider, (min(provider, c), max(provider, c))))
        masks.append([sum(1 << int(s) for s in np.flatnonzero(row)) for row in allowed])
    return list(zip(*masks, strict=True))


def _narrow(allowance: Allowance, readers: Sequence[int], to: Sequence[int]) -> Allowance:
    """An allowance for some of the readers only."""
    keep = set(to)
    return tuple(mask for mask, c in zip(allowance, readers, strict=True) if c in keep)


def _meet(a: Allowance, b: Allowance) -> Allowance:
    """What both allow."""
    return tuple(x & y for x, y in zip(a, b, strict=True))


def _within(a: Allowance, b: Allowance) -> bool:
    """Whether `b` allows all that `a` allows."""
    return all(x & ~y == 0 for x, y in zip(a, b, strict=True))
