"""Batches for a cluster: what is done while it has no workers."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from softneuro_tvm.errors import ClusterError
from softneuro_tvm.profiler import cluster_workers
from softneuro_tvm.profiler.cluster_workers import ClusterWorkers
from softneuro_tvm.profiler.messages import Outcome


class Workers:
    """A fork server that is done with everything at once."""

    folder = Path("scratch")

    def __init__(self) -> None:
        self.submitted: list[tuple[Any, ...]] = []
        self.outcomes: deque[Outcome] = deque()

    def submit(self, function: str, arguments: tuple[Any, ...], timeout_s: float) -> int:
        self.submitted.append(arguments)
        self.outcomes.append(Outcome(len(self.submitted), "ok", b""))
        return len(self.submitted)

    def outcome(self) -> Outcome:
        assert self.outcomes, "waits for ever"
        return self.outcomes.popleft()


class Cluster:
    """Has so many threads each time it is looked at; at the end of the list it is given up."""

    def __init__(self, *threads: int) -> None:
        self.left = deque(threads)
        self.threads = self.left[0]

    def look(self) -> None:
        if not self.left:
            raise ClusterError("has lost all its workers")
        self.threads = self.left.popleft()

    def submit(self, pickled: bytes, device: Any, elsewhere: bool, timeout_s: float, done: Any) -> Any:
        future = SimpleNamespace(value=pickled)
        done(future)
        return future

    def result(self, future: Any) -> Outcome:
        return Outcome(0, "ok", future.value)


def batch(workers: ClusterWorkers, *candidates: bytes) -> int:
    return workers.submit("compile_batch", (list(candidates), None, [], "lib.so", None, False), 60.0)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_workers, "_LOOK_S", 0.001)
    monkeypatch.setattr(cluster_workers, "wait", lambda connections, timeout: connections[0].outcomes)


def test_jobs_wait_while_the_cluster_has_no_workers() -> None:
    here = Workers()
    workers = ClusterWorkers(here, Cluster(0, 0, 0, 2, 2, 2, 2))  # type: ignore[arg-type]
    number = batch(workers, b"one", b"two")
    assert workers.outcome().number == number
    assert here.submitted[0][-1] == [b"one", b"two"]


def test_a_cluster_that_stays_without_workers_is_given_up() -> None:
    workers = ClusterWorkers(Workers(), Cluster(0, 0, 0))  # type: ignore[arg-type]
    batch(workers, b"one")
    with pytest.raises(ClusterError, match="has lost all its workers"):
        workers.outcome()


def test_what_is_under_way_here_ends_meanwhile() -> None:
    workers = ClusterWorkers(Workers(), Cluster(*[0] * 9))  # type: ignore[arg-type]
    batch(workers, b"one")
    number = workers.submit("prepare", (), 60.0)
    assert workers.outcome().number == number
