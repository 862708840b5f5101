"""Active measuring: the optimum is found, little is measured, and failures, budgets and interrupts are survived."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from softneuro_tvm.candidates import Candidates, enumerate_candidates
from softneuro_tvm.device import Device
from softneuro_tvm.errors import ProfileError, SelectionError
from softneuro_tvm.graph import Graph
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler.sentinel import MachineSpeed, is_slow, steady
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection import select
from softneuro_tvm.tuner import Network, Tuner, TunerOptions
from softneuro_tvm.tuner.prediction import drawn_s
from tests.support import made_up
from tests.support.fake_profiler import FakeModel, FakeProfiler, Prediction
from tests.support.graphs import Builder

DEVICE = Device("test", {"kind": "llvm", "mcpu": "haswell"}, vector_lanes=8, vector_registers=16, fma=True)
ONCE = TunerOptions(repeats=1, gap=0.0, gain=0.0)
Truth = dict[Candidate, Measurement]


def network() -> Graph:
    """Three convolutions of different sizes in a row, the last one with a residual."""
    b = Builder(x=(1, 8, 12, 12))
    first = b.conv("first", "x", 16)
    second = b.conv("second", first, 16)
    third = b.conv("third", second, 16)
    last = b.each("sum", [("add", ("x0", "x1"))], first, third)
    return Graph(tuple(b.layers), b.tensors, ("x",), (last,))


@pytest.fixture(scope="module")
def graph() -> Graph:
    return network()


@pytest.fixture(scope="module")
def candidates(graph: Graph) -> Candidates:
    return enumerate_candidates(graph, DEVICE)


@pytest.fixture
def truth(candidates: Candidates) -> Truth:
    return {candidate: made_up.measurement(candidate) for candidate in candidates.all()}


def tuner(
    graph: Graph, candidates: Candidates, truth: Truth, *, factor: float = 1.5, **changes: Any
) -> tuple[Tuner, FakeProfiler]:
    profiler = FakeProfiler(DEVICE, truth, changes.pop("interrupt_after", math.inf))
    return Tuner(Network(graph, candidates), profiler, lambda: FakeModel(truth, factor), **changes), profiler  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [1.05, 1.5, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_is_found_with_fewer_measurements(
    graph: Graph, candidates: Candidates, factor: float, seed: int
) -> None:
    truth = {candidate: made_up.measurement(candidate, seed) for candidate in candidates.all()}
    best = select(graph, candidates, truth, DEVICE)
    active, profiler = tuner(graph, candidates, truth, factor=factor, options=ONCE)
    tuning = active.run()
    found = select(graph, candidates, profiler.results, DEVICE)
    assert found.predicted_s == pytest.approx(best.predicted_s, rel=1e-9)
    assert tuning.stopped == "proved"
    assert tuning.best_s == pytest.approx(best.predicted_s)
    assert tuning.measured == len(profiler.results) == tuning.candidates - tuning.skipped
    assert len(set(profiler.requests)) == len(profiler.requests)
    if factor < 2:
        assert tuning.skipped > tuning.candidates / 4


def test_a_better_model_saves_measurements(graph: Graph, candidates: Candidates, truth: Truth) -> None:
    counts = []
    for factor in (1.02, 1.5, 3.0):
        active, _ = tuner(graph, candidates, truth, factor=factor, options=ONCE)
        counts.append(active.run().measured)
    assert counts[0] < counts[1] < counts[2]


def test_what_is_known_is_not_measured_again(graph: Graph, candidates: Candidates, truth: Truth) -> None:
    active, profiler = tuner(graph, candidates, truth, options=ONCE)
    active.run()
    again, second = tuner(graph, candidates, truth, options=replace(ONCE, locked=True))
    second.results |= profiler.results
    tuning = again.run()
    assert (tuning.measured, tuning.known, tuning.stopped) == (0, len(profiler.results), "proved")


def test_locked_refuses_to_measure(graph: Graph, candidates: Candidates, truth: Truth) -> None:
    active, profiler = tuner(graph, candidates, truth, options=replace(ONCE, locked=True))
    with pytest.raises(ProfileError, match="without --locked"):
        active.run()
    assert not profiler.requests


def test_everything_is_measured_on_request(graph: Graph, candidates: Candidates, truth: Truth) -> None:
    active, _ = tuner(graph, candidates, truth, options=replace(ONCE, exhaustive=True))
    tuning = active.run()
    assert (tuning.measured, tuning.skipped) == (len(candidates.all()), 0)
    assert tuning.bound_s == pytest.approx(tuning.best_s)


def test_failures_are_left_out(graph: Graph, candidates: Candidates, truth: Truth) -> None:
    best = select(graph, candidates, truth, DEVICE)
    for choice in best.layers:
        for candidate in truth:
            if candidate.workload.digest == choice.workload and candidate.variant == choice.variant:
                truth[candidate] = Measurement("crash", message="was ended by SIGSEGV")
    second = select(graph, candidates, truth, DEVICE)
    active, profiler = tuner(graph, candidates, truth, options=ONCE)
    active.run()
    found = select(graph, candidates, profiler.results, DEVICE)
    assert found.predicted_s == pytest.approx(second.predicted_s) and found.predicted_s > best.predicted_s


def test_last_resorts_are_measured_where_all_else_fails(graph: Graph, candidates: Candidates, truth: Truth) -> None:
    workload = graph.workloads["second"]
    for candidate in candidates.by_workload[workload]:
        truth[candidate] = Measurement("wrong", message="its relative error exceeds its bound")
    wider = enumerate_candidates(graph, DEVICE, last_resorts=[workload])
    truth |= {c: made_up.measurement(c) for c in wider.all() if c not in truth}
    active, profiler = tuner(graph, candidates, truth, options=ONCE)
    active.run()
    plan = select(graph, active.network.candidates, profiler.results, DEVICE)
    assert {choice.layer: choice.routine for choice in plan.layers}["second"].startswith("default/")
    for candidate in wider.by_workload[workload]:
        truth[candidate] = Measurement("wrong", message="its relative error exceeds its bound")
    hopeless, _ = tuner(graph, candidates, truth, options=ONCE)
    with pytest.raises(SelectionError):
        hopeless.run()


def test_a_spent_budget_still_gives_a_plan(graph: Graph, candidates: Candidates, truth: Truth) -> None:
    active, profiler = tuner(graph, candidates, truth, factor=3.0, deadline_s=time.monotonic() - 1)
    tuning = active.run()
    assert tuning.stopped == "budget" and tuning.bound_s < tuning.best_s < math.inf
    assert select(graph, candidates, profiler.results, DEVICE).predicted_s == pytest.approx(tuning.best_s)
    assert tuning.measured < len(candidates.all()) / 4


def test_an_interrupt_keeps_the_plan_so_far(graph: Graph, candidates: Candidates, truth: Truth) -> None:
    complete, _ = tuner(graph, candidates, truth, factor=3.0, deadline_s=time.monotonic() - 1)
    first_plan = complete.run().measured
    active, profiler = tuner(graph, candidates, truth, factor=3.0, interrupt_after=first_plan + 2)
    assert active.run().stopped == "interrupted"
    select(graph, candidates, profiler.results, DEVICE)
    early, _ = tuner(graph, candidates, truth, factor=3.0, interrupt_after=1)
    with pytest.raises(KeyboardInterrupt):
        early.run()


def test_close_decisions_are_measured_again(graph: Graph, candidates: Candidates, truth: Truth) -> None:
    workload = graph.workloads["second"]
    best = select(graph, candidates, truth, DEVICE)
    choice = next(c for c in best.layers if c.layer == "second")
    options = candidates.by_workload[workload]
    chosen = next(c for c in options if c.variant == choice.variant and c.routine.name == choice.routine)
    rivals = [c for c in options if c.variant.inputs == chosen.variant.inputs and c != chosen]
    rival = next(c for c in rivals if c.variant.outputs == chosen.variant.outputs)
    truth[rival] = Measurement("ok", tuple(s * 1.001 for s in truth[chosen].samples_s), 1e-6)
    active, profiler = tuner(graph, candidates, truth, options=TunerOptions(gap=0.0, gain=0.0, repeats=3))
    active.run()
    assert profiler.requests.count(rival) == profiler.requests.count(chosen) == 3
    assert profiler.results[rival].sessions == (5, 5, 5)
    far = [c for c in options if truth[c].median_s > 2 * truth[chosen].median_s]
    assert far and all(profiler.requests.count(c) <= 1 for c in far)


def test_the_bound_holds_whatever_is_measured(graph: Graph, candidates: Candidates, truth: Truth) -> None:
    best = select(graph, candidates, truth, DEVICE)
    bounds: list[float] = []
    active, profiler = tuner(graph, candidates, truth, factor=4.0, options=ONCE)
    profiler.observer.round = lambda count, left, best_s, bound_s: bounds.append(bound_s)  # type: ignore[method-assign]
    active.run()
    assert len(bounds) >= 2
    assert all(bound <= best.predicted_s * (1 + 1e-9) for bound in bounds)


def test_draws_follow_the_prediction() -> None:
    prediction = Prediction(1.0, 2.0, 8.0)
    draws = [drawn_s(prediction, z) for z in np.random.default_rng(0).standard_normal(4000)]
    assert np.median(draws) == pytest.approx(2.0, rel=0.1)
    assert np.mean([draw < 1.0 for draw in draws]) == pytest.approx(0.1, abs=0.02)
    assert np.mean([draw > 8.0 for draw in draws]) == pytest.approx(0.05, abs=0.015)


def test_measurements_of_several_processes_are_surer() -> None:
    samples = (1.0, 1.1, 0.9, 1.0, 1.0)
    one, two = Measurement("ok", samples, 1e-6), Measurement("ok", samples * 2, 1e-6, sessions=(5, 5))
    assert (one.repeats, two.repeats) == (1, 2)
    assert 0 < two.uncertainty_s < one.uncertainty_s < 0.2
    assert Measurement.from_json(two.to_json()) == two
    slow = Measurement("ok", samples, 1e-6, slowdown=1.4)
    assert Measurement.from_json(slow.to_json()) == slow
    assert Measurement("crash", message="was ended by SIGSEGV").uncertainty_s == math.inf


def speeds(*seconds: float) -> Callable[[], float]:
    waiting = list(seconds)
    return lambda: waiting.pop(0)


def test_a_slow_phase_is_waited_for_and_its_samples_are_discarded() -> None:
    takes = iter([(5.0,), (1.0,)])
    samples, seconds, _ = steady(lambda: next(takes), speeds(1.0, 1.5, 1.05), 1.0, 5.0)
    assert (samples, seconds) == ((1.0,), 1.05)
    takes = iter([(1.0,)])
    assert steady(lambda: next(takes), speeds(2.0, 2.0, 1.0, 1.0), 1.0, 5.0)[0] == (1.0,)
    takes = iter([(3.0,)])
    assert steady(lambda: next(takes), speeds(2.0, 2.0), 1.0, 0.0)[:2] == ((3.0,), 2.0)  # no patience


def test_the_usual_speed_is_not_that_of_slow_phases() -> None:
    speed = MachineSpeed([1.0, 1.01, 0.99])
    assert speed.usual_s == 0.0 and not is_slow(9.0, speed.usual_s)
    speed.seconds += [1.0, 1.02, 3.0, 3.0, 1.0]
    assert speed.usual_s == pytest.approx(1.0, rel=0.02)
    assert is_slow(3.0, speed.usual_s) and not is_slow(1.1, speed.usual_s)
