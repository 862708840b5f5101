"""The number of threads by measurement: which are tried, in what order and time, and which plan is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from softneuro_tvm import thread_choice
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.cli.options import parse_threads
from softneuro_tvm.cli.plan_tables import thread_lines
from softneuro_tvm.errors import OptionError
from softneuro_tvm.graph import Graph
from softneuro_tvm.plan import Plan
from softneuro_tvm.selection import select
from softneuro_tvm.thread_choice import likely_first, thread_counts, tune_threads
from softneuro_tvm.tuner import Network, Tuning
from softneuro_tvm.tuning import FINALS_S, Tuned, TuneOptions
from tests.support import made_up
from tests.support.clock import Clock
from tests.support.graphs import Builder
from tests.unit.test_tuner import DEVICE, network

GRAPH = network()
CANDIDATES = enumerate_candidates(GRAPH, DEVICE)
RESULTS = {candidate: made_up.measurement(candidate) for candidate in CANDIDATES.all()}
PLAN = select(GRAPH, CANDIDATES, RESULTS, DEVICE)


@dataclass
class FakeWorkshop:
    """Tunes by a table.

    Args:
        predicted_s: Of the best plan, by threads.
        network_s: What the whole network takes, by threads.
        interrupted: Threads at which the user interrupts, with a plan or without.
    """

    predicted_s: dict[int, float]
    network_s: dict[int, float] = field(default_factory=dict)
    interrupted: dict[int, str] = field(default_factory=dict)
    end_s: float = math.inf
    options: TuneOptions = field(default_factory=TuneOptions)
    tuning_s: float = 0.0
    clock: Clock = field(default_factory=Clock)
    graph: Graph = GRAPH
    store: Any = None
    time_networks: Any = None
    asked: list[tuple[int, float, float]] = field(default_factory=list)
    timed: list[list[int]] = field(default_factory=list)

    def tune(self, device: Any, deadline_s: float, limit_s: float = math.inf) -> Tuned:
        threads = device.threads
        self.asked.append((threads, deadline_s, limit_s))
        if self.interrupted.get(threads) == "without a plan":
            raise KeyboardInterrupt
        self.clock.sleep(self.tuning_s)
        seconds = self.predicted_s[threads]
        stopped: Any = "slower" if seconds > limit_s else "settled"
        stopped = "interrupted" if threads in self.interrupted else stopped
        tuning = Tuning(len(RESULTS), 0, len(RESULTS), 0, 1, 1.0, stopped, seconds, seconds)
        plan = None if stopped == "slower" else replace(PLAN, device={"threads": threads}, predicted_s=seconds)
        return Tuned(device, Network(GRAPH, CANDIDATES), RESULTS, tuning, plan, {})

    def finished(self, tuned: Tuned) -> Plan:
        assert tuned.plan is not None
        return replace(tuned.plan, tuning=tuned.summary)

    def time(
        self, graph: Graph, plans: Sequence[Plan], device: Any, store: Any, time_networks: Any, *, locked: bool
    ) -> list[Plan]:
        assert time_networks is self.time_networks
        counts = [int(plan.device["threads"]) for plan in plans]
        self.timed.append(counts)
        if not self.network_s:
            return []
        samples = [tuple(self.network_s[n] * (1 + i / 1000) for i in range(5)) for n in counts]
        return [replace(plan, samples_s=own) for plan, own in zip(plans, samples, strict=True)]


def run(monkeypatch: pytest.MonkeyPatch, context: FakeWorkshop, order: Sequence[int]) -> Plan:
    monkeypatch.setattr(thread_choice, "time_plans", context.time)
    monkeypatch.setattr(thread_choice, "likely_first", lambda graph, device, counts: list(order))
    return tune_threads(context, DEVICE, order)  # type: ignore[arg-type]


def test_counts_are_powers_of_two_and_all_cores() -> None:
    assert [thread_counts(most) for most in (1, 2, 3, 4, 6, 8)] == [
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 4),
        (1, 2, 4, 6),
        (1, 2, 4, 8),
    ]


def test_small_layers_begin_with_one_thread_and_large_ones_with_all() -> None:
    def one(channels: int, size: int) -> Graph:
        b = Builder(x=(1, channels, size, size))
        y = b.conv("y", "x", channels)
        return Graph(tuple(b.layers), b.tensors, ("x",), (y,))

    assert likely_first(one(8, 8), DEVICE, (2, 1, 2)) == [1, 2]
    assert likely_first(one(256, 56), DEVICE, (1, 4, 2)) == [4, 2, 1]


def test_the_fastest_network_wins_whatever_was_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    context = FakeWorkshop({1: 2.0, 2: 1.95}, {1: 2.0, 2: 3.0})
    plan = run(monkeypatch, context, (2, 1))
    assert plan.device["threads"] == 1 and context.timed == [[1, 2]] and plan.samples_s
    assert plan.tuning["threads"] == [
        {"threads": 1, "predicted_s": 2.0, "measured_s": pytest.approx(2.004), "stopped": "settled"},
        {"threads": 2, "predicted_s": 1.95, "measured_s": pytest.approx(3.006), "stopped": "settled"},
    ]
    assert plan.tuning["measured"] == len(RESULTS)


def test_of_equally_fast_networks_the_one_with_fewest_threads_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    for order in ((1, 2, 4), (4, 2, 1)):
        context = FakeWorkshop(dict.fromkeys(order, 1.0), {1: 1.001, 2: 1.0, 4: 1.0005})
        assert run(monkeypatch, context, order).device["threads"] == 1


def test_what_cannot_win_is_not_pursued(monkeypatch: pytest.MonkeyPatch) -> None:
    context = FakeWorkshop({1: 4.0, 2: 2.0, 4: 1.0}, {4: 1.0})
    plan = run(monkeypatch, context, (4, 2, 1))
    assert [limit_s for _, _, limit_s in context.asked] == [math.inf, pytest.approx(1.05), pytest.approx(1.05)]
    assert plan.device["threads"] == 4 and not context.timed
    assert [entry["stopped"] for entry in plan.tuning["threads"]] == ["slower", "slower", "settled"]
    lines = list(thread_lines(plan))
    assert "not pursued" in lines[0] and "(chosen)" in lines[2] and len(lines) == 3
    context = FakeWorkshop({1: 4.0, 4: 1.0}, {1: 4.0, 4: 1.0}, options=TuneOptions(exhaustive=True))
    run(monkeypatch, context, (4, 1))
    assert [limit_s for _, _, limit_s in context.asked] == [math.inf, math.inf] and context.timed


def test_few_networks_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    order = (1, 2, 4, 8, 16)
    context = FakeWorkshop({n: 1 + n / 1000 for n in order}, dict.fromkeys(order, 1.0))
    run(monkeypatch, context, order)
    assert context.timed == [[1, 2, 4]]


def test_networks_that_cannot_be_timed_are_judged_by_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = run(monkeypatch, FakeWorkshop({1: 1.02, 2: 1.0}), (1, 2))
    assert plan.device["threads"] == 2
    assert [entry["measured_s"] for entry in plan.tuning["threads"]] == [None, None]
    assert all("not timed" in line for line in thread_lines(plan))


def test_a_budget_is_shared_and_the_likely_ones_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock().rules(monkeypatch, thread_choice)
    begin_s, table = clock.now_s, {1: 1.0, 2: 1.0, 4: 1.0}
    context = FakeWorkshop(table, table, end_s=begin_s + 100 + FINALS_S, tuning_s=20, clock=clock)
    run(monkeypatch, context, (4, 2, 1))
    assert [deadline_s - begin_s for _, deadline_s, _ in context.asked] == pytest.approx([50, 60, 100])
    context = FakeWorkshop({1: 1.0, 2: 1.0}, end_s=clock.now_s + FINALS_S + 5, tuning_s=10, clock=clock)
    plan = run(monkeypatch, context, (2, 1))
    assert [threads for threads, _, _ in context.asked] == [2]  # the time is over
    assert plan.device["threads"] == 2 and len(plan.tuning["threads"]) == 1


@pytest.mark.parametrize("how", ["with a plan", "without a plan"])
def test_an_interrupt_keeps_the_best_plan_so_far(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    context = FakeWorkshop({1: 2.0, 2: 1.95, 4: 0.1}, interrupted={1: how})
    plan = run(monkeypatch, context, (2, 1, 4))
    assert [threads for threads, _, _ in context.asked] == [2, 1] and not context.timed
    assert plan.device["threads"] == 2 and plan.tuning["stopped"] == "interrupted"
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, FakeWorkshop({2: 1.0}, interrupted={2: "without a plan"}), (2, 1))


def test_an_interrupt_while_networks_are_timed_keeps_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any, **options: Any) -> list[Plan]:
        raise KeyboardInterrupt

    context = FakeWorkshop({1: 2.0, 2: 1.95})
    context.time = interrupt  # type: ignore[method-assign]
    plan = run(monkeypatch, context, (2, 1))
    assert plan.device["threads"] == 2 and plan.tuning["stopped"] == "interrupted"


def test_plans_for_given_threads_say_nothing_of_others() -> None:
    assert list(thread_lines(SimpleNamespace(tuning={}))) == []  # type: ignore[arg-type]


def test_the_option() -> None:
    assert [parse_threads(text) for text in (None, "auto", "3")] == [None, "auto", 3]
    for text in ("0", "-1", "all", "1.5", ""):
        with pytest.raises(OptionError, match="auto"):
            parse_threads(text)
