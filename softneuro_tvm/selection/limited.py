"""Exact selection under limits: an integer programme that is compared with reality until both agree.

States with equal ports can no longer be merged into the fastest one: those are kept that no other one beats in time and
in every resource that matters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from softneuro_tvm.errors import SelectionError
from softneuro_tvm.selection.activations import IsView, peak
from softneuro_tvm.selection.memory_rows import MemoryRows
from softneuro_tvm.selection.network_programme import NetworkProgramme, Term
from softneuro_tvm.selection.programme import Result
from softneuro_tvm.selection.resources import Limits, Needs, NeedsOf
from softneuro_tvm.selection.states import AdapterCost, State, total_cost
from softneuro_tvm.selection.structure import Price, Slot, Structure

TIME_LIMIT_S = 60.0

# HiGHS meets its constraints up to this share, and may miss what just meets them: rows are loosened by more, and
# solutions are checked.
_TOLERANCE = 1e-6
_SLACK = 2e-6
_TIME_SLACK = 1e-7

_OF_STATE: Mapping[str, Callable[[Needs], float]] = {
    "accuracy": lambda needs: needs.error,
    "workspace_bytes": lambda needs: needs.workspace_bytes,
    "weights_bytes": lambda needs: needs.weights_bytes,
}


@dataclass(frozen=True, eq=False)
class Found:
    """The best choice under limits.

    Args:
        chosen: The state of each layer by its name.
        cost_s: Its time in seconds, conversions included.
        resources: What it needs.
        value: What was minimised.
        lower: No choice that keeps the limits has less; equal to `value` when proved optimal.
        rounds: How often the programme was solved.
    """

    chosen: Mapping[str, State]
    cost_s: float
    resources: Mapping[str, float]
    value: float
    lower: float
    rounds: int


@dataclass(frozen=True, eq=False)
class LimitedProblem:
    """A network's choices, their times and their resources.

    Args:
        structure: States by ports.
        price: Of a candidate, in seconds.
        adapter_cost: Price of converting a tensor.
        needs: What candidates need.
        is_view: Tells conversions for which nothing runs.
    """

    structure: Structure
    price: Price
    adapter_cost: AdapterCost
    needs: NeedsOf
    is_view: IsView

    def cost_s(self, chosen: Mapping[str, State]) -> float:
        """Seconds of a choice, conversions included."""
        return total_cost(self.structure.graph, chosen, self.adapter_cost)

    def resources(self, chosen: Mapping[str, State]) -> dict[str, float]:
        """What a choice needs, by the names of `Limits`."""
        needs = [self.needs(state.candidate) for state in {id(s): s for s in chosen.values()}.values()]
        return {
            "memory_bytes": peak(self.structure.graph, chosen, self.needs, self.is_view).size_bytes,
            "workspace_bytes": max((each.workspace_bytes for each in needs), default=0),
            "weights_bytes": sum(each.weights_bytes for each in needs),
            "accuracy": math.fsum(each.error for each in needs),
        }

    def fastest(self, limits: Limits, time_limit_s: float = TIME_LIMIT_S) -> Found:
        """The fastest choice that keeps some limits.

        Raises:
            SelectionError: there is none; says which limit is too low and what is possible. Or none was found in time.
        """
        deadline = time.monotonic() + time_limit_s
        found = self.minimise("time_s", limits, deadline)
        if found is None:
            raise SelectionError(self._too_low(limits, deadline))
        return found

    def minimise(self, objective: str, limits: Limits, deadline: float, within_s: float | None = None) -> Found | None:
        """The choice of least time, or of least need of a resource; None if none keeps the limits.

        Args:
            objective: ``time_s`` or a resource.
            limits: What it must keep.
            deadline: When to stop, on the clock of `time.monotonic`.
            within_s: The most time that it may take, up to a millionth.

        Raises:
            SelectionError: none was found in time.
        """
        states = self._states({objective, *limits.given}, limits.workspace_bytes)
        if not all(states):
            return None
        model = _Model(self, states, objective, replace(limits, workspace_bytes=None), within_s)
        lower, rounds = -math.inf, 0
        while True:
            result, rounds = model.network.programme.solve(deadline - time.monotonic()), rounds + 1
            if result.values is None and result.lower == math.inf:
                return None
            lower = max(lower, result.lower)
            if result.values is not None:
                chosen = model.network.chosen(result)
                cost_s, resources = self.cost_s(chosen), self.resources(chosen)
                if model.agrees(result, chosen, resources):
                    value = cost_s if objective == "time_s" else resources[objective]
                    proved = result.optimal and value <= lower + _TOLERANCE * abs(lower)
                    return Found(chosen, cost_s, resources, value, value if proved else min(lower, value), rounds)
            if time.monotonic() > deadline:
                raise SelectionError(
                    f"found no plan that keeps the limits {limits.given} in time; loosen them, or allow more time"
                )

    def _states(self, matters: Iterable[str], workspace_bytes: float | None) -> list[list[State]]:
        """For each layer the states that nothing beats, those of covers shared."""
        known: dict[int, list[State]] = {}
        most = math.inf if workspace_bytes is None else workspace_bytes
        wanted = [_OF_STATE[name] for name in sorted(matters) if name in _OF_STATE]
        for slot in (slot for slots in self.structure.slots for slot in slots):
            if id(slot) not in known:
                known[id(slot)] = self._best(slot, wanted, "memory_bytes" in matters, most)
        found = [[state for slot in slots for state in known[id(slot)]] for slots in self.structure.slots]
        return found

    def _best(
        self, slot: Slot, wanted: Sequence[Callable[[Needs], float]], memory: bool, workspace_bytes: float
    ) -> list[State]:
        kept: list[tuple[tuple[float, ...], object, State]] = []
        for option in sorted(slot.candidates, key=self.price):
            needs = self.needs(option)
            values = (self.price(option), *(value(needs) for value in wanted))
            if needs.workspace_bytes > workspace_bytes or not all(map(math.isfinite, values)):
                continue
            kind = (needs.in_place, needs.is_view) if memory else None
            if not any(kind == k and all(a <= b for a, b in zip(v, values, strict=True)) for v, k, _ in kept):
                kept.append((values, kind, State(option, values[0], slot.cover)))
        return [state for _, _, state in kept]

    def _too_low(self, limits: Limits, deadline: float) -> str:
        """Names the limits that cannot be kept, and what is possible."""
        alone = {name: self.minimise(name, Limits(), deadline) for name in limits.given}
        shown = {name: (found, "") for name, found in alone.items() if found and found.value > limits.given[name]}
        if not shown:
            for name in limits.given:
                others = replace(limits, **{name: None})
                kept = " and ".join(f"{other} {bound!r}" for other, bound in others.given.items())
                found = self.minimise(name, others, deadline)
                if found:
                    shown[name] = found, f" with {kept}" if kept else ""
        texts = [
            f"{name} is limited to {limits.given[name]!r}, and no plan needs less than {found.value!r}{context}"
            for name, (found, context) in shown.items()
        ]
        return f"no plan keeps the limits: {'; '.join(texts)}; raise the limit"


class _Model:
    """The programme of one objective and its limits, and the cuts that reality adds."""

    def __init__(
        self,
        problem: LimitedProblem,
        states: Sequence[Sequence[State]],
        objective: str,
        limits: Limits,
        within_s: float | None,
    ) -> None:
        self.problem, self.states, self.objective = problem, states, objective
        self.limits = limits.given
        self.network = NetworkProgramme(problem.structure.graph, states, problem.adapter_cost)
        self.programme = self.network.programme
        self.memory_column: int | None = None
        self.memory_scale = 1.0
        if objective == "time_s":
            for columns, seconds in self.network.times:
                self.programme.add_cost(columns, seconds)
        elif within_s is not None:
            self._bound(self.network.times, within_s, _TIME_SLACK)
        for name in ("accuracy", "weights_bytes"):
            if objective == name:
                for columns, value in self._of_states(name):
                    self.programme.add_cost(columns, value)
            elif name in self.limits:
                self._bound(self._of_states(name), self.limits[name])
        if objective == "workspace_bytes":
            self._minimise_workspace()
        if objective == "memory_bytes" or "memory_bytes" in self.limits:
            self._add_memory()

    def _of_states(self, name: str) -> list[Term]:
        distinct = {id(state): state for own in self.states for state in own}
        value = _OF_STATE[name]
        return [
            (np.array([self.network.columns[key]]), float(value(self.problem.needs(state.candidate))))
            for key, state in distinct.items()
        ]

    def _bound(self, terms: Sequence[Term], bound: float, slack: float = _SLACK) -> None:
        """A row that keeps a sum below a bound, in units in which both are about 1."""
        unit = max(bound, max((abs(value) for _, value in terms), default=0.0)) or 1.0
        scaled = [(columns, value / unit) for columns, value in terms if value]
        if scaled:
            self.programme.add_row(scaled, most=bound / unit + slack)

    def _minimise_workspace(self) -> None:
        terms = self._of_states("workspace_bytes")
        value = {int(columns[0]): bytes_ for columns, bytes_ in terms}
        unit = max(value.values(), default=0.0) or 1.0
        column = self.programme.add_columns(np.array([unit]))
        for own in self.states:
            needed = [(np.array([c]), -value[int(c)] / unit) for c in self.network.columns_of(own)]
            self.programme.add_row([(column, 1.0), *needed], 0.0)

    def _add_memory(self) -> None:
        rows = list(MemoryRows(self.network, self.problem.needs, self.problem.is_view).rows())
        if self.objective != "memory_bytes":
            bound = self.limits["memory_bytes"]
            for terms, most in rows:
                if most > bound:
                    self._bound(terms, bound)
            return
        self.memory_scale = max((most for _, most in rows), default=0.0) or 1.0
        (self.memory_column,) = self.programme.add_columns(np.array([self.memory_scale]), upper=np.inf)
        for terms, _ in rows:
            scaled = [(columns, -value / self.memory_scale) for columns, value in terms]
            self.programme.add_row([(np.array([self.memory_column]), 1.0), *scaled], 0.0)

    def agrees(self, result: Result, chosen: Mapping[str, State], resources: Mapping[str, float]) -> bool:
        """Whether a solution is what the programme takes it for; adds a cut if not."""
        ok = True
        graph, needs = self.problem.structure.graph, self.problem.needs
        needed = resources["memory_bytes"]
        if self.memory_column is not None:
            assert result.values is not None
            said = float(result.values[self.memory_column]) * self.memory_scale
            if needed > said * (1 + _TOLERANCE) + 1:
                self._cut(chosen, peak(graph, chosen, needs, self.problem.is_view).layers, needed)
                ok = False
        elif needed > self.limits.get("memory_bytes", math.inf):
            self._cut(chosen, peak(graph, chosen, needs, self.problem.is_view).layers, None)
            ok = False
        if any(resources[name] > bound for name, bound in self.limits.items() if name != "memory_bytes"):
            self._forbid(chosen)
            ok = False
        return ok

    def _cut(self, chosen: Mapping[str, State], layers: Sequence[int], needed: float | None) -> None:
        """Forbids what decides a peak, or lets it cost what it needs."""
        columns = []
        for i in layers:
            own = chosen[self.problem.structure.graph.layers[i].name]
            alike = [state for state in self.states[i] if self._kind(state) == self._kind(own)]
            columns.append(self.network.columns_of(alike))
        if needed is None:
            self.programme.add_row([(each, 1.0) for each in columns], most=len(columns) - 1.0)
        else:
            assert self.memory_column is not None
            share = needed / self.memory_scale
            terms: list[Term] = [(each, -share) for each in columns]
            self.programme.add_row([(np.array([self.memory_column]), 1.0), *terms], -share * (len(columns) - 1))

    def _kind(self, state: State) -> object:
        """What of a state decides about memory."""
        needs = self.problem.needs(state.candidate)
        return state.identity, needs.in_place, needs.is_view

    def _forbid(self, chosen: Mapping[str, State]) -> None:
        """Forbids a choice that breaks a limit by less than what HiGHS sees."""
        columns = [self.network.columns_of([chosen[layer.name]]) for layer in self.problem.structure.graph.layers]
        self.programme.add_row([(each, 1.0) for each in columns], most=len(columns) - 1.0)
