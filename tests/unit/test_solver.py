"""The solver on problems whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from softneuro_tvm.errors import SelectionError
from softneuro_tvm.selection.beam import beam_search
from softneuro_tvm.selection.pairwise import PairwiseProblem, Table
from softneuro_tvm.selection.solver import conflict, greedy, least_cost, marginals, solve

INF = np.inf


def problem_of(unary: list[list[float]], pairwise: dict[tuple[int, int], list[list[float]]]) -> PairwiseProblem:
    return PairwiseProblem(
        tuple(np.array(u, np.float64) for u in unary), {e: np.array(t, np.float64) for e, t in pairwise.items()}
    )


def chain(variables: int, states: int) -> PairwiseProblem:
    rng = np.random.default_rng(7)
    unary = tuple(rng.uniform(1e-6, 1e-2, states) for _ in range(variables))
    return PairwiseProblem(unary, {(i, i + 1): rng.uniform(0, 5e-3, (states, states)) for i in range(variables - 1)})


def viterbi(problem: PairwiseProblem) -> float:
    best: Table = problem.unary[0]
    for i in range(1, len(problem.unary)):
        best = (best[:, None] + problem.pairwise[i - 1, i]).min(axis=0) + problem.unary[i]
    return float(best.min())


def test_a_slower_state_wins_when_it_saves_the_conversion() -> None:
    problem = problem_of([[1.0, 1.5], [2.0, 1.0]], {(0, 1): [[0.0, 5.0], [5.0, 0.0]]})
    solution = solve(problem)
    assert (solution.states, solution.cost, solution.lower_bound) == ((1, 1), 2.5, 2.5)
    assert solution.method == "elimination" and least_cost(problem) == 2.5
    assert (greedy(problem).states, greedy(problem).cost) == ((0, 1), 7.0)
    assert [m.tolist() for m in marginals(problem)] == [[3.0, 2.5], [3.0, 2.5]]


def test_nothing_to_choose_costs_nothing() -> None:
    solution = solve(PairwiseProblem((), {}))
    assert (solution.states, solution.cost, solution.lower_bound) == ((), 0.0, 0.0)
    assert marginals(PairwiseProblem((), {})) == []


def test_equal_costs_go_to_the_lowest_state() -> None:
    flat = PairwiseProblem(tuple(np.ones(3) for _ in range(5)), {(i, i + 1): np.zeros((3, 3)) for i in range(4)})
    assert solve(flat).states == (0, 0, 0, 0, 0)


def test_500_variables_of_30_states_match_an_independent_dynamic_programme() -> None:
    problem = chain(500, 30)
    solution = solve(problem)
    assert solution.cost == pytest.approx(viterbi(problem), rel=1e-12)
    assert solution.lower_bound == solution.cost
    assert all(m.min() == pytest.approx(solution.cost, rel=1e-12) for m in marginals(problem))


def test_components_are_solved_side_by_side() -> None:
    problem = problem_of([[3.0, 1.0], [2.0, 5.0], [4.0, 4.5]], {(0, 2): [[0.0, 0.0], [0.0, 1.0]]})
    assert solve(problem).states == (1, 0, 0)
    assert [m.tolist() for m in marginals(problem)] == [[9.0, 7.0], [7.0, 10.0], [7.0, 8.5]]


def test_infeasible_problems_name_the_variables_at_fault() -> None:
    equal, differ = [[0.0, INF], [INF, 0.0]], [[INF, 0.0], [0.0, INF]]
    problem = problem_of([[1.0, 1.0]] * 5, {(0, 1): equal, (1, 3): equal, (1, 2): equal, (0, 3): differ})
    assert conflict(problem) == (0, 1, 3) and least_cost(problem) == INF
    with pytest.raises(SelectionError, match=r"variable\(s\) 0, 1, 3 cannot be satisfied together"):
        solve(problem)
    with pytest.raises(SelectionError, match="0, 1, 3"):
        marginals(problem)


def test_a_variable_without_an_allowed_state_is_named_alone() -> None:
    problem = problem_of([[1.0], [INF, INF], [1.0]], {(0, 1): [[0.0, 0.0]]})
    assert conflict(problem) == (1,)


def test_greedy_repairs_with_the_least_sum_of_own_costs() -> None:
    problem = problem_of([[1.0, 1.4], [1.0, 1.2, 9.0]], {(0, 1): [[INF, INF, 0.0], [INF, 8.0, 0.0]]})
    solution = greedy(problem)
    assert (solution.states, solution.method) == ((1, 1), "greedy+repair")
    assert solution.cost == pytest.approx(10.6)


def test_greedy_settles_ties_by_the_pairs() -> None:
    problem = problem_of([[1.0, 2.0], [0.0, 0.0, 0.0]], {(0, 1): [[INF, 3.0, 2.0], [0.0, 0.0, 0.0]]})
    assert (greedy(problem).states, greedy(problem).cost) == ((0, 2), 3.0)


def test_without_time_the_best_found_comes_with_its_bound() -> None:
    rng = np.random.default_rng(3)
    unary = tuple(rng.uniform(0.0, 1e-3, 6) for _ in range(14))
    pairs = {(i, j): rng.uniform(0.0, 1e-3, (6, 6)) for j in range(14) for i in range(j)}
    solution = solve(PairwiseProblem(unary, pairs), table_limit=1000, time_limit_s=0.0)
    assert 0.0 < solution.lower_bound < solution.cost < INF


def test_a_wide_beam_is_exact_and_a_narrow_one_may_drop_what_pays_late() -> None:
    problem = problem_of([[1.0, 1.5], [2.0, 1.0]], {(0, 1): [[0.0, 5.0], [5.0, 0.0]]})
    assert (beam_search(problem).states, beam_search(problem).cost) == ((1, 1), 2.5)
    assert (beam_search(problem, width=1).states, beam_search(problem, width=1).cost) == ((0, 0), 3.0)
    wide = chain(40, 6)
    assert beam_search(wide).cost == pytest.approx(solve(wide).cost)
    assert beam_search(wide, width=2).cost > solve(wide).cost
    assert beam_search(PairwiseProblem((), {})).states == ()


def test_a_beam_that_loses_every_allowed_choice_says_so() -> None:
    problem = problem_of([[1.0, 2.0], [0.0]], {(0, 1): [[INF], [0.0]]})
    assert beam_search(problem).states == (1, 0)
    with pytest.raises(SelectionError, match="width 1 found no allowed choice"):
        beam_search(problem, width=1)


@pytest.mark.parametrize(
    ("unary", "pairwise", "message"),
    [
        ([[1.0], []], {}, r"unary\[1\] has shape"),
        ([[1.0, np.nan]], {}, r"unary\[0\] holds nan"),
        ([[1.0], [1.0]], {(1, 0): [[0.0]]}, "does not name two variables"),
        ([[1.0], [1.0]], {(0, 2): [[0.0]]}, "does not name two variables"),
        ([[1.0], [1.0, 2.0]], {(0, 1): [[0.0]]}, r"its variables have \(1, 2\) states"),
        ([[1.0], [1.0]], {(0, 1): [[-INF]]}, "holds nan or -inf"),
    ],
)
def test_malformed_problems_are_refused(
    unary: list[list[float]], pairwise: dict[tuple[int, int], list[list[float]]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        problem_of(unary, pairwise)
