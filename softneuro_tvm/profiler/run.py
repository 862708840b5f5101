"""The profiler's entry: looks candidates up, and has the missing ones measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType

from softneuro_tvm.device import Device, available_cores
from softneuro_tvm.graph import Workload
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler.boards import Boards
from softneuro_tvm.profiler.cluster import CompileCluster
from softneuro_tvm.profiler.cluster_workers import ClusterWorkers
from softneuro_tvm.profiler.keys import Key, Residency, measurement_key
from softneuro_tvm.profiler.observer import Observer, SilentObserver
from softneuro_tvm.profiler.session import OF_VIEWS, Job, Session
from softneuro_tvm.profiler.store import ProfileStore
from softneuro_tvm.profiler.timing import TimingOptions
from softneuro_tvm.profiler.workers import Workers
from softneuro_tvm.remote.board import Board
from softneuro_tvm.routine import Candidate

_BATCH_CANDIDATES = 32
"""Candidates for each core in a batch: at the end of a batch's compilation cores idle, so batches are not small."""
_BATCH_BYTES = 512 << 20
"""Bytes of sample data in a batch, roughly."""


class Profiler:
    """Measures candidates, here or on boards, in as many rounds as its user wants; use as a context manager.

    An interrupt (Ctrl-C) ends all work; what was measured until then is in the store, so the next call resumes.

    Args:
        device: What to generate code for, with the number of threads to tune for.
        store: Where results are kept.
        residency: Where the network's weights lie, see `residency_of`.
        observer: Told of the progress.
        options: How long to time.
        workers: A fork server that was started early; one is started when it is needed, and ended here, if None.
        retry_failed: Takes failures that are known as unknown.
        board: Where to measure; here if None.
        cluster: Where to compile; here if None.

    Attributes:
        keys: Of all candidates that were looked up.
        results: What is known about them.
        measured: Candidates that were measured; those that were measured again count again.
    """

    def __init__(
        self,
        device: Device,
        store: ProfileStore,
        *,
        residency: Residency = "dram",
        observer: Observer | None = None,
        options: TimingOptions | None = None,
        workers: Workers | None = None,
        retry_failed: bool = False,
        board: Board | None = None,
        cluster: CompileCluster | None = None,
    ) -> None:
        self.device, self.store, self.residency = device, store, residency
        self.observer = observer or SilentObserver()
        self.options = options or TimingOptions()
        self.results: dict[Candidate, Measurement] = {}
        self.measured = 0
        self.keys: dict[Candidate, Key] = {}
        self._retry_failed, self._board, self._cluster = retry_failed, board, cluster
        self._workers = workers
        self._session: Session | None = None
        self._stack = ExitStack()

    def look_up(self, candidates: Iterable[Candidate]) -> None:
        """Adds what is known about candidates to `results`: what the store holds, and that views take no time.

        Args:
            candidates: All that may be measured later: sample data are prepared for all of a workload's candidates.

        Raises:
            StoreError: the store cannot be read.
        """
        keys = {c: measurement_key(c, self.device, self.residency) for c in candidates if c not in self.keys}
        known = self.store.get_many(keys.values(), retry_failed=self._retry_failed)
        self.results |= {candidate: OF_VIEWS for candidate in keys if candidate.routine.is_view}
        self.results |= {candidate: known[key] for candidate, key in keys.items() if key in known}
        self.keys |= keys

    def start(self) -> None:
        """Starts what will measure: it gets ready while the caller does other work."""
        if self._workers is None:
            self._workers = self._stack.enter_context(Workers())

    def measure(self, candidates: Iterable[Candidate], deadline_s: float = math.inf) -> None:
        """Measures candidates that were looked up, known or not, and adds the results to `results`.

        Args:
            candidates: What to measure, each workload's most promising ones first.
            deadline_s: By `time.monotonic`; measuring begun until then is finished, the rest is left.

        Raises:
            ProfileError: measuring cannot go on: no linker, a full disk, no memory, no board.
            StoreError: the store cannot be written.
        """
        if self._session is None:
            device = replace(self.device, target=dict(self.device.target))
            self.start()
            assert self._workers is not None
            workers = ClusterWorkers(self._workers, self._cluster) if self._cluster else self._workers
            self._session = Session(
                device,
                self.store,
                self.residency,
                self.observer,
                self.options,
                workers,
                self.keys,
                self.results,
                boards=Boards(self._board, device, workers, self.options) if self._board else None,
            )
        for jobs in _batches(list(dict.fromkeys(candidates))):
            self._session.run(jobs, deadline_s)
        self.measured = self._session.count

    def __enter__(self) -> Profiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _batches(candidates: Sequence[Candidate]) -> Iterator[list[Job]]:
    """Groups candidates by workload, and workloads into batches."""
    by_workload: dict[Workload, list[Candidate]] = {}
    for candidate in candidates:
        by_workload.setdefault(candidate.workload, []).append(candidate)
    batch: list[Job] = []
    count = size = 0
    for workload, group in by_workload.items():
        job = Job(workload, group)
        full = count + len(group) > _BATCH_CANDIDATES * available_cores() or size + job.size_bytes > _BATCH_BYTES
        if batch and full:
            yield batch
            batch, count, size = [], 0, 0
        batch.append(job)
        count, size = count + len(group), size + job.size_bytes
    if batch:
        yield batch
