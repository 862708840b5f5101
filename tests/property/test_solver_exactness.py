"""The solver against brute force on small problems, and against an integer programme on larger ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from softneuro_tvm.errors import SelectionError
from softneuro_tvm.selection.bounds import dual_ascent
from softneuro_tvm.selection.elimination import FactorGraph
from softneuro_tvm.selection.local_search import improve, total
from softneuro_tvm.selection.milp import solve_milp
from softneuro_tvm.selection.ordering import elimination_order
from softneuro_tvm.selection.pairwise import PairwiseProblem, Table
from softneuro_tvm.selection.reductions import make_arc_consistent
from softneuro_tvm.selection.sharing import share_constraints
from softneuro_tvm.selection.solver import conflict, greedy, marginals, solve

Rng = np.random.Generator

# Few distinct values, so that ties are frequent; the solver's own rewriting may leave negative costs.
COSTS = [-2e-4, 0.0, 1e-6, 2e-6, 5e-5, 3.3e-4, 1e-3, 4e-3, 7e-2]


def table_of(rng: Rng, costs: list[float], forbidden: float, *shape: int) -> Table:
    """Costs, of which a share is forbidden."""
    table: Table = rng.choice(costs, shape)
    table[rng.random(shape) < forbidden] = np.inf
    return table


@st.composite
def problems(draw: st.DrawFn) -> PairwiseProblem:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.3, 0.7, 1.0]))
    forbidden = draw(st.sampled_from([0.0, 0.1, 0.3]))
    unary = tuple(table_of(rng, COSTS, forbidden / 2, k) for k in sizes)
    chosen = [pair for pair in combinations(range(len(sizes)), 2) if rng.random() < density]
    return PairwiseProblem(unary, {(i, j): table_of(rng, COSTS, forbidden, sizes[i], sizes[j]) for i, j in chosen})


def all_costs(problem: PairwiseProblem) -> Table:
    """The cost of every state vector, with one axis per variable."""
    n = len(problem.unary)
    costs = np.zeros([u.size for u in problem.unary])
    for i, u in enumerate(problem.unary):
        costs += u.reshape([-1 if a == i else 1 for a in range(n)])
    for (i, j), table in problem.pairwise.items():
        costs += table.reshape([problem.unary[a].size if a in (i, j) else 1 for a in range(n)])
    return costs


def all_marginals(problem: PairwiseProblem) -> list[Table]:
    costs = all_costs(problem)
    return [costs.min(axis=tuple(a for a in range(costs.ndim) if a != i)) for i in range(costs.ndim)]


def close(a: Table | float, b: Table | float) -> bool:
    return bool(np.allclose(a, b, rtol=1e-9, atol=1e-15))


@given(problems(), st.sampled_from([4_000_000, 1]))
@settings(max_examples=300)
def test_solve_finds_the_brute_force_optimum_whatever_the_table_limit(problem: PairwiseProblem, limit: int) -> None:
    best = all_costs(problem).min()
    if np.isinf(best):
        with pytest.raises(SelectionError, match="cannot be satisfied together"):
            solve(problem, table_limit=limit)
        return
    solution = solve(problem, table_limit=limit)
    assert close(solution.cost, best)
    assert solution.cost == problem.cost(solution.states) == solution.lower_bound


@given(problems(), st.sampled_from([4_000_000, 1]))
@settings(max_examples=200)
def test_marginals_are_those_of_brute_force_whatever_the_table_limit(problem: PairwiseProblem, limit: int) -> None:
    expected = all_marginals(problem)
    if np.isinf(expected[0]).all():
        with pytest.raises(SelectionError):
            marginals(problem, table_limit=limit)
        return
    found = marginals(problem, table_limit=limit)
    best = solve(problem).cost
    for ours, theirs in zip(found, expected, strict=True):
        assert close(ours, theirs)
        assert close(ours.min(), best)


@given(problems())
@settings(max_examples=100)
def test_greedy_is_feasible_and_starts_from_the_cheapest_states(problem: PairwiseProblem) -> None:
    best = all_costs(problem).min()
    if np.isinf(best):
        with pytest.raises(SelectionError):
            greedy(problem)
        return
    solution = greedy(problem)
    assert np.isfinite(solution.cost) and solution.cost == problem.cost(solution.states)
    assert solution.lower_bound <= best + 1e-12 and solution.cost >= best - 1e-12
    own = sum(float(u[s]) for u, s in zip(problem.unary, solution.states, strict=True))
    masks = PairwiseProblem(problem.unary, {e: np.where(np.isinf(t), t, 0.0) for e, t in problem.pairwise.items()})
    assert close(own, all_costs(masks).min())


@given(problems())
@settings(max_examples=100)
def test_a_conflict_is_infeasible_and_minimal(problem: PairwiseProblem) -> None:
    def satisfiable(variables: tuple[int, ...]) -> bool:
        index = {v: p for p, v in enumerate(variables)}
        pairs = {(index[i], index[j]): t for (i, j), t in problem.pairwise.items() if i in index and j in index}
        part = PairwiseProblem(tuple(problem.unary[v] for v in variables), pairs)
        return bool(np.isfinite(all_costs(part).min()))

    members = conflict(problem)
    everything = tuple(range(len(problem.unary)))
    assert bool(members) != satisfiable(everything)
    if members:
        assert not satisfiable(members)
        assert all(satisfiable(tuple(v for v in members if v != left_out)) for left_out in members)


@st.composite
def nested_constraints(draw: st.DrawFn) -> PairwiseProblem:
    """Providers that allow or forbid states of readers, each of them those of a subset of another's readers."""
    providers, readers = draw(st.sampled_from([(3, 5), (4, 4), (5, 4)]))
    numbers = draw(st.permutations(range(providers + readers)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = rng.integers(2, 4, len(numbers))
    unary = tuple(table_of(rng, COSTS, 0.0, k) for k in sizes)
    reached = rng.integers(3, readers + 1, providers)
    pairwise: dict[tuple[int, int], Table] = {}
    for provider, count in zip(numbers, [readers, *reached[1:]], strict=False):
        for reader in numbers[providers : providers + count]:
            i, j = sorted((provider, reader))
            pairwise[i, j] = table_of(rng, [0.0], 0.2, sizes[i], sizes[j])
    i, j = sorted(numbers[:2])
    pairwise[i, j] = table_of(rng, COSTS, 0.0, sizes[i], sizes[j])
    return PairwiseProblem(unary, pairwise)


@given(nested_constraints())
@settings(max_examples=200)
def test_shared_constraints_keep_every_marginal(problem: PairwiseProblem) -> None:
    shared = share_constraints(FactorGraph.of(problem))
    event(f"rewritten: {shared is not None}")
    if shared is None:
        return
    size = max(shared.variables) + 1
    pairs = {(i, j): shared.tables[i, j] for i, j in shared.edges()}
    rewritten = PairwiseProblem(tuple(shared.tables[(v,)] for v in range(size)), pairs)
    assert len(pairs) < len(problem.pairwise)
    expected = all_marginals(problem)
    if np.isfinite(expected[0]).any():
        for ours, theirs in zip(marginals(rewritten), expected, strict=False):
            assert close(ours, theirs)
    else:
        assert conflict(rewritten)


@given(problems())
@settings(max_examples=100)
def test_dual_ascent_never_bounds_too_much(problem: PairwiseProblem) -> None:
    expected = all_marginals(problem)
    graph = FactorGraph.of(problem)
    kept = make_arc_consistent(graph).kept
    if np.isinf(graph.constant) or np.isinf(expected[0]).all():
        return
    bounds = dual_ascent(graph, np.inf, time.monotonic() + 10.0)
    slack = 1e-12
    assert bounds.lower <= expected[0].min() + slack <= bounds.upper + 2 * slack
    for v, floor in bounds.floors.items():
        assert (floor <= expected[v][kept.get(v, slice(None))] + slack).all()


@given(problems(), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_the_answer_does_not_depend_on_the_order_of_the_pairs(problem: PairwiseProblem, random: object) -> None:
    if np.isinf(all_costs(problem).min()):
        return
    reordered = PairwiseProblem(problem.unary, dict(sorted(problem.pairwise.items(), reverse=True)))
    assert solve(problem).states == solve(problem).states == solve(reordered).states


def costs_between(rng: Rng, rows: int, columns: int) -> Table:
    table: Table = rng.uniform(0.0, 5e-3, (rows, columns))
    table[rng.random((rows, columns)) < 0.1] = np.inf
    table[0] = table[:, 0] = 1e-2  # so that no problem is infeasible
    return table


def with_edges(edges: set[tuple[int, int]], states: int, rng: Rng) -> PairwiseProblem:
    n = 1 + max(j for _, j in edges)
    unary = tuple(rng.uniform(1e-6, 1e-2, states) for _ in range(n))
    return PairwiseProblem(unary, {edge: costs_between(rng, states, states) for edge in sorted(edges)})


def diamonds(rng: Rng) -> PairwiseProblem:
    return with_edges({(i + a, i + b) for i in range(0, 36, 3) for a, b in ((0, 1), (0, 2), (1, 3), (2, 3))}, 6, rng)


def nested_branches(rng: Rng) -> PairwiseProblem:
    inner = {(0, 1), (0, 2), (1, 3), (2, 3), (3, 5), (0, 4), (4, 5), (0, 6), (5, 6), (6, 7), (0, 7)}
    return with_edges({(i + a, i + b) for i in range(0, 35, 7) for a, b in inner}, 5, rng)


def many_inputs_and_outputs(rng: Rng) -> PairwiseProblem:
    merges = {(i, 4 + i // 2) for i in range(4)} | {(4, 6), (5, 6), (4, 7), (5, 7), (6, 8), (7, 8), (6, 9), (7, 10)}
    return with_edges(merges | {(8, 11), (8, 12), (9, 12), (10, 11), (9, 11)}, 6, rng)


def dense(rng: Rng) -> PairwiseProblem:
    return with_edges({(i, j) for i, j in combinations(range(12), 2) if rng.random() < 0.6}, 4, rng)


def densely_connected_block(rng: Rng, layers: int = 8, formats: int = 4) -> PairwiseProblem:
    """Tensors that all later layers read; a tensor's state says where it was produced and which formats are made."""
    sets = [s for size in range(1, formats + 1) for s in combinations(range(formats), size)]
    states = [(p, s) for p in range(formats) for s in sets if p in s]
    unary: list[Table] = []
    pairwise: dict[tuple[int, int], Table] = {}
    tensors: list[int] = []
    for _ in range(layers):
        reader = len(unary)
        unary.append(rng.uniform(1e-4, 2e-4, formats))
        for tensor in tensors:
            pairwise[tensor, reader] = np.array(
                [[0.0 if f in s else np.inf for f in range(formats)] for _, s in states]
            )
        conversion = rng.uniform(1e-5, 1e-4, (formats, formats))
        np.fill_diagonal(conversion, 0.0)
        tensors.append(reader + 1)
        unary.append(np.array([sum(conversion[p, f] for f in s) for p, s in states]))
        produce = rng.uniform(1e-5, 1e-4, (formats, formats))
        pairwise[reader, reader + 1] = np.array([[produce[f, p] for p, _ in states] for f in range(formats)])
    return PairwiseProblem(tuple(unary), pairwise)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [diamonds, nested_branches, many_inputs_and_outputs, dense, densely_connected_block])
def test_solve_agrees_with_an_integer_programme(make: Callable[[Rng], PairwiseProblem], seed: int) -> None:
    problem = make(np.random.default_rng(seed))
    solution = solve(problem)
    programme = solve_milp(FactorGraph.of(problem), 60.0)
    assert programme.optimal and programme.states is not None
    assert close(solution.cost, problem.cost([programme.states[v] for v in range(len(problem.unary))]))
    assert close(solution.cost, programme.lower)
    assert solution.lower_bound == solution.cost
    assert greedy(problem).cost >= solution.cost
    assert all(close(m.min(), solution.cost) for m in marginals(problem))


@pytest.mark.parametrize("seed", range(3))
def test_the_core_beyond_the_table_limit_is_solved_as_well(seed: int) -> None:
    problem = dense(np.random.default_rng(seed))
    solution = solve(problem, table_limit=100)
    assert solution.method in ("elimination+bounds", "elimination+milp")
    assert solution.lower_bound == solution.cost
    assert close(solution.cost, solve(problem).cost)


def test_a_densely_connected_block_needs_no_large_tables() -> None:
    problem = densely_connected_block(np.random.default_rng(0), layers=24)
    graph = FactorGraph.of(problem)
    assert elimination_order(graph, 4_000_000) is None
    shared = share_constraints(graph)
    assert shared is not None and elimination_order(shared, 50_000) is not None
    solution = solve(problem)
    assert (solution.method, solution.lower_bound) == ("elimination", solution.cost)
    assert all(close(m.min(), solution.cost) for m in marginals(problem))


@pytest.mark.parametrize("seed", range(3))
def test_local_search_improves_and_undoes_what_is_forbidden(seed: int) -> None:
    problem = dense(np.random.default_rng(seed))
    graph = FactorGraph.of(problem)
    forbidden = next((e, np.argwhere(np.isinf(t))[0]) for e, t in sorted(problem.pairwise.items()) if np.isinf(t).any())
    start = dict.fromkeys(range(len(problem.unary)), 0)
    start |= {v: int(s) for v, s in zip(*forbidden, strict=True)}
    assert np.isinf(total(graph, start))
    found = improve(graph, start, time.monotonic() + 30.0)
    assert solve(problem).cost * (1 - 1e-12) <= total(graph, found) < total(graph, dict.fromkeys(start, 0))
