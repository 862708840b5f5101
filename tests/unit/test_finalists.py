"""The last round of tuning: who takes part, and who wins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from softneuro_tvm import finalists
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.cli.plan_tables import comparison_lines
from softneuro_tvm.device import Device
from softneuro_tvm.explanation import layer_sentence
from softneuro_tvm.finalists import identity, play_finals, rivals, winner
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler import ProfileStore
from softneuro_tvm.profiler.keys import is_current
from softneuro_tvm.selection import select
from softneuro_tvm.tuner import Network
from tests.support import made_up
from tests.unit.test_tuner import network as graph_of_convolutions

DEVICE = Device("test", {"kind": "llvm", "mcpu": "haswell"}, vector_lanes=8, vector_registers=16, fma=True)


@pytest.fixture(scope="module")
def case() -> tuple:
    graph = graph_of_convolutions()
    candidates = enumerate_candidates(graph, DEVICE)
    results = {candidate: made_up.measurement(candidate) for candidate in candidates.all()}
    return Network(graph, candidates), results, select(graph, candidates, results, DEVICE)


def test_rivals_do_without_a_family_and_are_close(case: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    network, results, plan = case
    monkeypatch.setattr(finalists, "_CLOSE", 10.0)
    found = rivals(network, results, DEVICE, plan)
    assert 0 < len(found) < finalists.FINALISTS
    assert identity(plan) not in {identity(rival) for rival in found}
    families = {choice.routine for choice in plan.layers}
    for rival in found:
        assert rival.predicted_s >= plan.predicted_s
        assert families - {choice.routine for choice in rival.layers}
        assert (rival.method, rival.lower_bound_s) == ("finals", plan.predicted_s)
        ahead = [a.plan_s for choice in rival.layers for a in choice.alternatives if a.routine in families]
        assert min(ahead) == pytest.approx(plan.predicted_s)  # what they do without is weighed against them
        assert "faster as a whole network than the best by prediction" in next(comparison_lines(rival))
        sentences = [layer_sentence(rival, choice) for choice in rival.layers]
        assert any("faster by prediction, but this plan" in sentence for sentence in sentences)
    monkeypatch.setattr(finalists, "_CLOSE", 0.0)
    assert rivals(network, results, DEVICE, plan) == []


def test_a_rival_must_be_clearly_faster(case: tuple) -> None:
    _, _, plan = case
    first = replace(plan, samples_s=(1.0, 1.01, 1.02, 1.03, 1.5))
    assert winner([first, replace(plan, samples_s=(0.999, 1.008, 1.018, 1.029, 1.4))]) is first  # by a hair
    assert winner([first, replace(plan, samples_s=(0.8, 0.9, 1.05, 1.1, 1.2))]) is first  # only now and then
    faster = replace(plan, samples_s=(0.9, 0.91, 0.92, 0.93, 1.2))
    assert winner([first, faster]) is faster
    fastest = replace(plan, samples_s=(0.8, 0.81, 0.82, 0.83, 1.2))
    assert winner([first, faster, fastest]) is fastest


def test_finals_are_remembered(case: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, results, plan = case
    monkeypatch.setattr(finalists, "_CLOSE", 10.0)
    monkeypatch.setattr(finalists, "build", lambda graph, plan, device, packed: identity(plan))
    timed: list[list[str]] = []

    def time(modules: list[str], inputs: object) -> list[tuple[float, ...]]:
        timed.append(modules)
        return [tuple(1.0 / (1 + i) + 0.001 * j for j in range(5)) for i in range(len(modules))]

    monkeypatch.setattr(finalists, "time_interleaved", time)
    with ProfileStore(tmp_path / "store.sqlite") as store:
        assert play_finals(network, results, DEVICE, plan, store, locked=True) is plan
        first = play_finals(network, results, DEVICE, plan, store)
        assert play_finals(network, results, DEVICE, plan, store, locked=True) == first
        known = dict(store.records())
    assert len(timed) == 1
    assert first.samples_s and identity(first) != identity(plan)
    assert Measurement("ok", first.samples_s, 0.0) in known.values() and all(map(is_current, known))


def test_only_times_taken_in_turns_are_compared(case: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, _, plan = case
    plans = [replace(plan, device={**plan.device, "threads": threads}) for threads in (1, 2, 4)]
    built: list[int] = []
    monkeypatch.setattr(finalists, "build", lambda graph, plan, device, packed: built.append(device.threads))
    monkeypatch.setattr(finalists, "time_interleaved", lambda modules, inputs: [(1.0,) * 5] * len(modules))
    with ProfileStore(tmp_path / "store.sqlite") as store:
        for chosen in (plans[:2], plans[1:], plans[::2], plans[:2]):
            timed = finalists.time_plans(network.graph, chosen, DEVICE, store)
            assert [each.device for each in timed] == [each.device for each in chosen]
            assert all(each.samples_s == (1.0,) * 5 for each in timed)
        assert finalists.time_plans(network.graph, plans, DEVICE, store, locked=True) == []
    assert built == [1, 2, 2, 4, 1, 4]  # each pair once, each plan for its own number of threads
