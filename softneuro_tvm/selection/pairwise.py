"""The selection problem in its barest form: variables, states, and costs of states and of pairs of states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Table: TypeAlias = NDArray[np.float64]

# Costs are measured to a few digits: a solution within this factor of a lower bound is optimal for every purpose.
RELATIVE_GAP = 1e-9


@dataclass(frozen=True, eq=False)
class PairwiseProblem:
    """Minimise the sum of `unary[i][x_i]` and of `pairwise[(i, j)][x_i, x_j]` over all state vectors x.

    Attributes:
        unary: Per variable, the cost of each of its states in seconds. Shape (k_i,), k_i >= 1.
        pairwise: Per pair i < j, the cost of each pair of states in seconds. Shape (k_i, k_j).

    `np.inf` forbids a state or a pair of states.

    Raises:
        ValueError: If a table has the wrong shape, or holds nan or -inf, or a pair is not i < j.
    """

    unary: tuple[Table, ...]
    pairwise: Mapping[tuple[int, int], Table]

    def __post_init__(self) -> None:
        """Check every table once, so that the solver may trust them."""
        for i, costs in enumerate(self.unary):
            if costs.ndim != 1 or costs.size == 0:
                raise ValueError(f"unary[{i}] has shape {costs.shape}; give a vector with one cost per state")
            _check_costs(f"unary[{i}]", costs)
        for (i, j), costs in self.pairwise.items():
            if not 0 <= i < j < len(self.unary):
                raise ValueError(f"pairwise[{i, j}] does not name two variables i < j below {len(self.unary)}")
            shape = (self.unary[i].size, self.unary[j].size)
            if costs.shape != shape:
                raise ValueError(f"pairwise[{i, j}] has shape {costs.shape}; its variables have {shape} states")
            _check_costs(f"pairwise[{i, j}]", costs)

    def cost(self, states: Sequence[int]) -> float:
        """Total cost in seconds of a state vector; inf if it holds anything forbidden."""
        own = sum(float(costs[states[i]]) for i, costs in enumerate(self.unary))
        return own + sum(float(costs[states[i], states[j]]) for (i, j), costs in self.pairwise.items())


@dataclass(frozen=True)
class Solution:
    """A state vector and what is known about its quality.

    Attributes:
        states: The chosen state of each variable.
        cost: Its total in seconds, recomputed from the problem.
        lower_bound: No state vector costs less; equal to `cost` when the solution is proved optimal.
        method: The solver's parts that were needed, joined by "+".
    """

    states: tuple[int, ...]
    cost: float
    lower_bound: float
    method: str


def is_proved(cost: float, lower_bound: float) -> bool:
    """Whether a solution of some cost, inf for none, is optimal up to rounding."""
    return bool(np.isfinite(cost)) and lower_bound >= cost - RELATIVE_GAP * abs(cost)


def _check_costs(name: str, costs: Table) -> None:
    if np.isnan(costs).any() or np.isneginf(costs).any():
        raise ValueError(f"{name} holds nan or -inf; a cost is a number of seconds, or inf where forbidden")
