"""A fork server whose batches are generated and compiled on a cluster first."""

from __future__ import annotations

import queue
from collections import deque
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from typing import Any

from softneuro_tvm.device import available_cores
from softneuro_tvm.errors import ClusterError
from softneuro_tvm.profiler.cluster import CompileCluster
from softneuro_tvm.profiler.messages import Outcome
from softneuro_tvm.profiler.workers import Workers

_LOOK_S = 5.0
_POLL_S = 0.02


@dataclass(eq=False)
class _Batch:
    """A call of `compile_batch`.

    Args:
        number: Of the task.
        arguments: Of the call.
        timeout_s: Of the call, and of each candidate before.
        futures: Of each candidate that was submitted; dask forgets what nobody keeps.
        generated: By position of the candidate: pickled `Generated`.
        failed: Outcomes of candidates that came to nothing.
    """

    number: int
    arguments: tuple[Any, ...]
    timeout_s: float
    futures: list[Any] = field(default_factory=list)
    generated: dict[int, bytes] = field(default_factory=dict)
    failed: list[Outcome] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all candidates have ended."""
        return len(self.generated) + len(self.failed) == len(self.arguments[0])


class ClusterWorkers:
    """Used like the fork server that it stands for.

    Args:
        workers: The fork server; it is not ended here.
        cluster: Where to compile.

    Attributes:
        folder: For scratch files.
    """

    def __init__(self, workers: Workers, cluster: CompileCluster) -> None:
        self.folder = workers.folder
        self._workers, self._cluster = workers, cluster
        self._count, self._there = 0, 0
        self._numbers: dict[int, int] = {}
        self._jobs: deque[tuple[_Batch, int]] = deque()
        self._arrived: queue.SimpleQueue[tuple[_Batch, int, Any]] = queue.SimpleQueue()
        self._to_link: deque[_Batch] = deque()
        self._linking: set[int] = set()
        self._failed: deque[Outcome] = deque()

    @property
    def compiling(self) -> int:
        """Batches that are worth compiling at a time."""
        return max(1, self._cluster.threads)

    def submit(self, function: str, arguments: tuple[Any, ...], timeout_s: float) -> int:
        """As `Workers.submit`; batches are compiled as soon as a thread of the cluster is free.

        Raises:
            ProfileError: fork server or cluster are gone.
        """
        self._count += 1
        if function == "compile_batch":
            batch = _Batch(self._count, arguments, timeout_s)
            self._jobs.extend((batch, position) for position in range(len(arguments[0])))
            self._advance()
        else:
            self._numbers[self._workers.submit(function, arguments, timeout_s)] = self._count
        return self._count

    def outcome(self) -> Outcome:
        """As `Workers.outcome`.

        Raises:
            ProfileError: fork server or cluster are gone, or a worker cannot load a candidate.
        """
        while True:
            self._advance()
            if self._failed:
                return self._failed.popleft()
            if not self._there and not self._jobs:  # while the cluster has no workers, jobs wait though none is there
                return self._ended_here()
            if self._numbers and wait([self._workers], 0):  # type: ignore[list-item]
                return self._ended_here()
            try:
                self._ended_there(*self._arrived.get(timeout=_POLL_S if self._numbers else _LOOK_S))
            except queue.Empty:
                continue

    def _advance(self) -> None:
        """Keeps the cluster's threads and this machine's cores busy."""
        if self._jobs or self._there:
            self._cluster.look()
        while self._jobs and self._there < self._cluster.threads:
            batch, position = self._jobs.popleft()
            self._there += 1
            self._submit_there(batch, position)
        while self._to_link and len(self._linking) < available_cores():
            batch = self._to_link.popleft()
            generated = [batch.generated[position] for position in sorted(batch.generated)]
            number = self._workers.submit("compile_batch", (*batch.arguments, generated), batch.timeout_s)
            self._numbers[number] = batch.number
            self._linking.add(number)

    def _submit_there(self, batch: _Batch, position: int) -> None:
        pickled, device, _, _, _, elsewhere = batch.arguments

        def done(future: Any) -> None:
            self._arrived.put((batch, position, future))

        future = self._cluster.submit(pickled[position], device, elsewhere, batch.timeout_s, done)
        batch.futures.append(future)

    def _ended_there(self, batch: _Batch, position: int, future: Any) -> None:
        """Takes what a worker has generated.

        Raises:
            ClusterError: it has not, and the candidate is not to blame.
        """
        self._there -= 1
        found = self._cluster.result(future)
        if found.status == "error":  # what a routine raises is a result
            raise ClusterError(f"a dask worker cannot load a candidate: {found.message}; install there what is here")
        if found.value is None:
            batch.failed.append(replace(found, number=batch.number, message=f"{found.message} (on a dask worker)"))
        else:
            batch.generated[position] = found.value
        if batch.complete and batch.failed:
            self._failed.append(batch.failed[0])  # its candidates come again, one at a time
        elif batch.complete:
            self._to_link.append(batch)

    def _ended_here(self) -> Outcome:
        found = self._workers.outcome()
        number = self._numbers[found.number]
        if found.status != "part":
            del self._numbers[found.number]
            self._linking.discard(found.number)
        return replace(found, number=number)
