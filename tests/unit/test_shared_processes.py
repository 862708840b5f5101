"""Candidates that share a measuring process: who is blamed, and who is measured again."""

from __future__ import annotations

import math
import pickle
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler import SilentObserver, TimingOptions, session
from softneuro_tvm.profiler.keys import measurement_key
from softneuro_tvm.profiler.messages import Compiled, Measured, MeasureRequest, Outcome
from softneuro_tvm.profiler.session import Job, Session
from softneuro_tvm.routine import Candidate
from tests.support.clock import Clock
from tests.unit.test_tuner import DEVICE, network

OPTIONS = TimingOptions(total_patience_s=3.0)
CANDIDATES = max(enumerate_candidates(network(), DEVICE).by_workload.values(), key=len)
ENDINGS: dict[str, Literal["crash", "timeout", "error"]] = {"crash": "crash", "hang": "timeout", "raise": "error"}
"""How processes end, by what candidates do."""


class Server:
    """Does with each candidate what a list of words says.

    ``ok``, ``wrong``, ``crash``, ``hang``, ``raise``; ``shaken``: wrong unless it is the first of its process;
    ``exit``: ends its process after it was measured.

    Args:
        words: What it does with each.
        clock: Goes on with each candidate by `seconds`.
        seconds: That one takes.

    Attributes:
        processes: The candidates of each process, by position.
        requests: Of each process.
    """

    folder = Path("scratch")
    compiling = 2

    def __init__(self, words: Sequence[str], clock: Clock, seconds: float) -> None:
        self.words, self.clock, self.seconds = words, clock, seconds
        self.processes: list[list[int]] = []
        self.requests: list[Sequence[MeasureRequest]] = []
        self._outcomes: deque[Outcome] = deque()

    def submit(self, function: str, arguments: tuple[Any, ...], timeout_s: float) -> int:
        assert function == "measure_each" and timeout_s == OPTIONS.timeout_s
        number = len(self.processes) + 1
        requests, deadline_s = arguments
        self.processes.append([])
        self.requests.append(requests)
        self._outcomes.append(Outcome(number - 1, "part", None))  # left behind by an interrupted call
        for place, request in enumerate(requests):
            if place and self.clock.monotonic() > deadline_s:
                break
            self.clock.sleep(self.seconds)
            index = int(request.compiled.symbol)
            self.processes[-1].append(index)
            word = self.words[index]
            if word in ENDINGS:
                self._outcomes.append(Outcome(number, ENDINGS[word], None, f"{word} of {index}"))
                return number
            wrong = word == "wrong" or (word == "shaken" and place > 0)
            found = (
                Measurement("wrong", message=f"by {place}") if wrong else Measurement("ok", (1e-3 * (index + 1),), 0.0)
            )
            self._outcomes.append(Outcome(number, "part", pickle.dumps(Measured(found, 1e-5, 0.25))))
            if word == "exit":
                self._outcomes.append(Outcome(number, "crash", None, "at its end"))
                return number
        self._outcomes.append(Outcome(number, "ok", pickle.dumps(None)))
        return number

    def outcome(self) -> Outcome:
        return self._outcomes.popleft()


class Store:
    """Counts what is stored."""

    def __init__(self) -> None:
        self.stored: list[Measurement] = []

    def add_samples(self, key: Any, found: Measurement, fingerprint: Mapping[str, Any] | None = None) -> Measurement:
        self.stored.append(found)
        return found


def measured(
    words: Sequence[str], deadline_s: float = math.inf, clock: Clock | None = None, seconds: float = 0.0
) -> tuple[list[str], Server]:
    """What is found of candidates of one workload: their statuses in order; empty for those without a result."""
    candidates = list(CANDIDATES[: len(words)])
    assert len(candidates) == len(words)
    server, store = Server(words, clock or Clock(), seconds), Store()
    results: dict[Candidate, Measurement] = {}
    keys = {candidate: measurement_key(candidate, DEVICE, "l2") for candidate in candidates}
    measuring = Session(DEVICE, store, "l2", SilentObserver(), OPTIONS, server, keys, results)  # type: ignore[arg-type]
    compiled = {c: Compiled("kernel", "lib.so", str(i)) for i, c in enumerate(candidates)}
    measuring._measure_here([Job(candidates[0].workload, candidates, dict(compiled))], deadline_s)
    assert len(store.stored) == len(results) == measuring.count
    return [results[c].status if c in results else "" for c in candidates], server


def test_processes_are_shared() -> None:
    found, server = measured(["ok"] * 10)
    assert found == ["ok"] * 10
    assert server.processes == [list(range(8)), [8, 9]]
    first, second = server.requests
    assert [request.sentinel.patience_s for request in first] == [3.0] * 8
    assert [request.sentinel.patience_s for request in second] == [1.0] * 2
    assert all(request.sentinel.usual_s == 1e-5 for request in second)
    assert all(request.best_s == math.inf for request in first)


@pytest.mark.parametrize(("word", "status"), [("crash", "crash"), ("hang", "timeout"), ("raise", "error")])
def test_one_that_ends_its_process_is_blamed_only_if_it_was_the_first(word: str, status: str) -> None:
    found, server = measured(["ok", word, "ok", "ok"])
    assert found == ["ok", status, "ok", "ok"]
    assert server.processes == [[0, 1], [1], [2, 3]]
    found, server = measured([word, "ok", word, "ok"])
    assert found == [status, "ok", status, "ok"]
    assert server.processes == [[0], [1, 2], [2], [3]]


def test_a_wrong_one_is_measured_by_itself_before_it_is_blamed() -> None:
    found, server = measured(["wrong", "shaken", "wrong", "ok"])
    assert found == ["wrong", "ok", "wrong", "ok"]
    assert server.processes == [[0, 1, 2, 3], [1], [2]]


def test_a_process_that_dies_after_its_last_result_blames_nobody() -> None:
    found, server = measured(["ok", "exit"])
    assert found == ["ok", "ok"] and server.processes == [[0, 1]]
    found, server = measured(["exit", "ok"])
    assert found == ["ok", "ok"] and server.processes == [[0], [1]]


def test_none_is_begun_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock().rules(monkeypatch, session)
    found, server = measured(["ok"] * 4, clock.now_s + 6, clock, seconds=5)
    assert found == ["ok", "ok", "", ""] and server.processes == [[0, 1]]
    found, server = measured(["ok"] * 4, clock.now_s - 1, clock)
    assert found == [""] * 4 and not server.processes
