"""How a search ended is remembered: tuning again neither predicts nor measures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.device import Device
from softneuro_tvm.profiler import ProfileStore
from softneuro_tvm.profiler.keys import Key, measurement_key
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection import select
from softneuro_tvm.tuner import Conclusion, Network, StoredConclusions, Tuner, TunerOptions
from tests.support import made_up
from tests.support.fake_profiler import FakeModel, FakeProfiler
from tests.unit.test_tuner import DEVICE, Truth, network

GRAPH = network()
CANDIDATES = enumerate_candidates(GRAPH, DEVICE)
TRUTH: Truth = {candidate: made_up.measurement(candidate) for candidate in CANDIDATES.all()}
QUICK = TunerOptions(repeats=1)


@dataclass
class Memory:
    """Conclusions without a store."""

    known: Conclusion | None = None
    noted: list[Conclusion] = field(default_factory=list)

    def recall(self) -> Conclusion | None:
        return self.known

    def note(self, conclusion: Conclusion) -> None:
        self.known = conclusion
        self.noted.append(conclusion)


def no_model() -> Any:
    raise AssertionError("the cost model is not needed")


def tuned(memory: Memory, results: Mapping[Candidate, Any] | None = None, **changes: Any) -> tuple[Any, FakeProfiler]:
    profiler = FakeProfiler(DEVICE, TRUTH)
    profiler.results |= results or {}
    make_model = changes.pop("make_model", lambda: FakeModel(TRUTH, 2.0))
    arguments = {"options": QUICK, "conclusions": memory, **changes}
    return Tuner(Network(GRAPH, CANDIDATES), profiler, make_model, **arguments).run(), profiler  # type: ignore[arg-type]


def test_what_is_concluded_is_not_asked_again() -> None:
    memory = Memory()
    first, profiler = tuned(memory)
    assert (
        memory.known == Conclusion(first.stopped, first.best_s, first.bounds)
        and first.bounds
        and first.stopped in ("proved", "settled")
    )
    again, second = tuned(memory, profiler.results, make_model=no_model)
    assert not second.requests
    assert again.summary == first.summary and (again.best_s, again.bounds) == (first.best_s, first.bounds)


def test_what_others_measured_meanwhile_changes_no_conclusion() -> None:
    memory = Memory()
    first, profiler = tuned(memory)
    more = {c: TRUTH[c] for c in CANDIDATES.all() if c not in profiler.results}
    slower = {
        c: replace(m, samples_s=tuple(s * 1.01 for s in m.samples_s)) for c, m in profiler.results.items() if m.ok
    }
    again, second = tuned(memory, slower | more, make_model=no_model)
    assert not second.requests and again.stopped == first.stopped


def test_a_conclusion_from_records_that_are_gone_does_not_hold() -> None:
    memory = Memory()
    _, profiler = tuned(memory)
    best = select(GRAPH, CANDIDATES, profiler.results, DEVICE)
    ranked = sorted(profiler.results, key=lambda c: profiler.results[c].median_s)
    for left in (ranked[len(ranked) // 2 :], []):  # the fast half is gone; all are
        known = {candidate: profiler.results[candidate] for candidate in left}
        again, second = tuned(memory, known)
        assert second.requests and again.best_s == pytest.approx(best.predicted_s)


def test_a_budget_that_is_spent_concludes_nothing() -> None:
    memory = Memory()
    tuning, _ = tuned(memory, deadline_s=0.0, make_model=lambda: FakeModel(TRUTH, 8.0))
    assert tuning.stopped == "budget" and not memory.noted


def test_slower_networks_are_not_measured() -> None:
    best_s = select(GRAPH, CANDIDATES, TRUTH, DEVICE).predicted_s
    memory, exact = Memory(), {"make_model": lambda: FakeModel(TRUTH, 1.01)}
    tuning, profiler = tuned(memory, limit_s=best_s / 2, **exact)
    assert tuning.stopped == "slower" and not profiler.requests
    assert tuning.bound_s == pytest.approx(best_s, rel=0.05)
    again, profiler = tuned(memory, limit_s=best_s / 2, make_model=no_model)
    assert again.stopped == "slower" and again.bound_s == tuning.bound_s and not profiler.requests
    for limit_s in (2 * best_s, math.inf):  # now the same plans are of interest
        found, profiler = tuned(Memory(memory.known), limit_s=limit_s, **exact)
        assert found.stopped != "slower" and found.best_s == pytest.approx(best_s, rel=0.05)


class Looked:
    """Has the part of `Profiler` that conclusions use."""

    def __init__(self, store: ProfileStore, keys: dict[Candidate, Key]) -> None:
        self.store, self.keys, self.device = store, keys, DEVICE


def test_conclusions_are_stored_by_all_they_depend_on(tmp_path: Path) -> None:
    some = CANDIDATES.all()[:6]
    keys = {c: measurement_key(c, DEVICE, "l2") for c in some}
    backwards = dict(reversed(keys.items()))
    with ProfileStore(tmp_path / "store.sqlite") as store:
        profiler = Looked(store, keys)
        own = StoredConclusions(profiler, "graph", [0.01])  # type: ignore[arg-type]
        assert own.recall() is None
        own.note(Conclusion("proved", 2.0))
        last = Conclusion("settled", 1.5, {some[0]: 1e-4, some[4]: 2.5e-6})
        own.note(last)
        same = StoredConclusions(Looked(store, backwards), "graph", [0.01])  # type: ignore[arg-type]
        assert own.recall() == same.recall() == last
        fewer = {c: keys[c] for c in some[1:]}
        changed = {c: replace(key, source="other") for c, key in keys.items()}
        elsewhere = Looked(store, keys)
        elsewhere.device = Device("test", DEVICE.target, threads=2)
        for other in (
            StoredConclusions(profiler, "other graph", [0.01]),  # type: ignore[arg-type]
            StoredConclusions(profiler, "graph", [0.02]),  # type: ignore[arg-type]
            StoredConclusions(Looked(store, fewer), "graph", [0.01]),  # type: ignore[arg-type]
            StoredConclusions(Looked(store, changed), "graph", [0.01]),  # type: ignore[arg-type]
            StoredConclusions(elsewhere, "graph", [0.01]),  # type: ignore[arg-type]
        ):
            assert other.recall() is None
