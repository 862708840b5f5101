"""The profiler at work: batches of workloads are compiled in parallel, then measured one candidate at a time."""

from __future__ import annotations

import math
import pickle
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from softneuro_tvm.device import Device, available_cores
from softneuro_tvm.errors import ProfileError
from softneuro_tvm.graph import Workload
from softneuro_tvm.machine import machine_lock
from softneuro_tvm.measurement import Measurement, Status
from softneuro_tvm.profiler.boards import SESSION_CANDIDATES, Boards
from softneuro_tvm.profiler.files import input_file, reference_file
from softneuro_tvm.profiler.keys import Key, Residency, weight_copies
from softneuro_tvm.profiler.messages import Compiled, Measured, MeasureRequest, Outcome
from softneuro_tvm.profiler.observer import Observer
from softneuro_tvm.profiler.sentinel import MachineSpeed, Sentinel
from softneuro_tvm.profiler.store import ProfileStore
from softneuro_tvm.profiler.timing import TimingOptions
from softneuro_tvm.profiler.workers import TaskServer
from softneuro_tvm.registry import layer_kind
from softneuro_tvm.routine import Candidate

_LIBRARY_CANDIDATES = 4
"""Candidates compiled by one task, at most: they share its cost."""
_PROCESS_CANDIDATES = 8
"""Candidates measured by one process: they share its beginning and its end, which take as long as timing one."""
_KEPT_BYTES = 1 << 30
"""Sample data that are kept for later batches, roughly."""
OF_VIEWS = Measurement("ok", (0.0,), 0.0, "a view: nothing runs")
"""What is known of a `View` without measuring."""


@dataclass(eq=False)
class Job:
    """A workload, its candidates, and how far they are.

    Args:
        workload: What they compute.
        candidates: What is to be measured.
        compiled: What compiling yielded; a `Measurement` where there is nothing left to measure.
    """

    workload: Workload
    candidates: list[Candidate]
    compiled: dict[Candidate, Compiled | Measurement] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes of its sample data, roughly."""
        tensors = (*self.workload.inputs, *self.workload.outputs)
        return 3 * sum(t.size_bytes for t in tensors) + 4 * sum(t.size_bytes for _, t in self.workload.weights)


_Ready = tuple[Job, Candidate, Compiled]
"""A candidate that is ready to be measured."""


@dataclass(frozen=True, eq=False)
class _Task:
    """Work for the fork server, and what to do with its outcome; that may call for more work."""

    function: str
    arguments: tuple[Any, ...]
    handle: Callable[[Outcome], Sequence[_Task]]


@dataclass(eq=False)
class Session:
    """What is common to all batches.

    Args:
        device: To compile for; its target is a plain dictionary, so that it can be sent to workers.
        store: Receives every result at once.
        residency: Where weights are kept.
        observer: Told of the progress.
        options: How long to time.
        workers: The fork server.
        keys: Of all candidates that may be measured at some time.
        results: Changed: receives every result.
        libraries: Changed: what compiling yielded, for candidates whose workload's sample data are kept.
        prepared: Changed: workloads whose sample data are kept, with their sizes in bytes, those used last at the end.
        count: Changed: candidates measured.
        linked: Changed: libraries with compiled candidates.
        speed: Changed: how fast the machine was.
        boards: Measure instead of this machine.
    """

    device: Device
    store: ProfileStore
    residency: Residency
    observer: Observer
    options: TimingOptions
    workers: TaskServer
    keys: dict[Candidate, Key]
    results: dict[Candidate, Measurement]
    libraries: dict[Candidate, Compiled | Measurement] = field(default_factory=dict)
    prepared: dict[Workload, int] = field(default_factory=dict)
    count: int = 0
    linked: int = 0
    speed: MachineSpeed = field(default_factory=MachineSpeed)
    boards: Boards | None = None

    def run(self, jobs: list[Job], deadline_s: float = math.inf) -> None:
        """Compiles and measures a batch.

        Args:
            jobs: The batch. Candidates that have results already are measured again, and the samples are joined.
            deadline_s: By `time.monotonic`; nothing is begun afterwards.

        Raises:
            ProfileError: measuring cannot go on.
            StoreError: the store cannot be written.
        """
        for job in jobs:
            job.compiled |= {c: self.libraries[c] for c in job.candidates if c in self.libraries}
        with machine_lock(exclusive=False):
            if not self._sentinel.exists():
                self._parallel([self._sentinel_task()], math.inf)
            self._parallel((self._prepare_task(job) for job in jobs if not self._is_prepared(job)), deadline_s)
            self._parallel(self._compile_tasks(jobs), deadline_s, self.workers.compiling)
        if self.boards is not None:
            self._measure_there(self.boards, jobs, deadline_s)
        else:
            with machine_lock():
                self._measure_here(jobs, deadline_s)
        for job in jobs:
            if job.workload in self.prepared:
                self.prepared[job.workload] = self.prepared.pop(job.workload)
                self.libraries |= job.compiled
        self._forget(_KEPT_BYTES)

    def _forget(self, kept_bytes: int) -> None:
        """Removes sample data and libraries, the oldest first, until no more than so many bytes are kept."""
        while self.prepared and sum(self.prepared.values()) > kept_bytes:
            workload = next(iter(self.prepared))
            del self.prepared[workload]
            for candidate in [c for c in self.libraries if c.workload == workload]:
                del self.libraries[candidate]
            shutil.rmtree(self._folder(workload), ignore_errors=True)

    def _folder(self, workload: Workload) -> str:
        return str(self.workers.folder / f"{workload.kind}-{workload.digest}")

    def _parallel(self, tasks: Iterable[_Task], deadline_s: float, count: int | None = None) -> None:
        """Keeps all cores busy, or so many tasks running, until all tasks, and those that they call for, are done."""
        count = count or available_cores()
        waiting, running = deque(tasks), dict[int, _Task]()
        while waiting or running:
            if time.monotonic() > deadline_s:
                waiting.clear()
            while waiting and len(running) < count:
                task = waiting.popleft()
                running[self._submit(task.function, task.arguments, self.options.compile_timeout_s)] = task
            if not running:
                break  # no time was left to begin anything
            outcome = self._outcome()
            done = running.pop(outcome.number, None)  # an interrupted call may have left tasks behind
            if done is not None:
                waiting.extend(done.handle(outcome))

    def _submit(self, function: str, arguments: tuple[Any, ...], timeout_s: float) -> int:
        return self.workers.submit(function, arguments, timeout_s)

    def _outcome(self) -> Outcome:
        outcome = self.workers.outcome()
        if outcome.status == "environment":
            raise ProfileError(f"measuring cannot go on: {outcome.message}; what was measured is kept")
        return outcome

    @property
    def _patience_s(self) -> float:
        return max(0.0, self.options.total_patience_s - self.speed.lost_s)

    @property
    def _sentinel(self) -> Path:
        return self.workers.folder / "sentinel.so"

    def _sentinel_task(self) -> _Task:
        """The reference kernel."""

        def handle(outcome: Outcome) -> Sequence[_Task]:
            if outcome.status != "ok":
                raise ProfileError(f"the reference kernel cannot be compiled: {outcome.message}")
            return ()

        return _Task("compile_sentinel", (self.device, str(self._sentinel), self.boards is not None), handle)

    def _is_prepared(self, job: Job) -> bool:
        """Whether there are sample data for all candidates: a last resort may read formats that no other one does."""
        folder = self._folder(job.workload)
        ports = {port for candidate in job.candidates for port in enumerate(candidate.variant.inputs)}
        return job.workload in self.prepared and all(Path(input_file(folder, *port)).exists() for port in ports)

    def _prepare_task(self, job: Job) -> _Task:
        """Sample data and references of a workload."""

        def handle(outcome: Outcome) -> Sequence[_Task]:
            if outcome.status == "ok":
                self.prepared[job.workload] = job.size_bytes
            else:
                for candidate in job.candidates:
                    self._compiled(job, candidate, Measurement("error", message=f"sample data: {outcome.message}"))
            return ()

        candidates = (c for c in self.keys if c.workload == job.workload)
        ports = dict.fromkeys(port for c in candidates for port in enumerate(c.variant.inputs))
        return _Task("prepare", (job.workload, tuple(ports), self._folder(job.workload)), handle)

    def _compile_tasks(self, jobs: Sequence[Job]) -> Iterator[_Task]:
        """Several candidates a task; fewer and fewer, so that all cores end at about the same time."""
        waiting = [(job, candidate) for job in jobs for candidate in job.candidates if candidate not in job.compiled]
        most = _LIBRARY_CANDIDATES if self.boards is None else SESSION_CANDIDATES
        while waiting:
            count = min(most, -(-len(waiting) // (2 * self.workers.compiling)))
            yield from self._compile_task(waiting[:count])
            del waiting[:count]

    def _compile_task(self, group: Sequence[tuple[Job, Candidate]]) -> Sequence[_Task]:
        """One task; if it takes its process down, its candidates are compiled again one at a time."""
        sent, pickled = list[tuple[Job, Candidate]](), list[bytes]()
        for job, candidate in group:
            try:
                pickled.append(pickle.dumps(candidate))
                sent.append((job, candidate))
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                message = f"cannot be sent to another process: {error}; define its routine at the top of a module"
                self._compiled(job, candidate, Measurement("error", message=message))

        def handle(outcome: Outcome) -> Sequence[_Task]:
            if outcome.value is not None:
                for (job, candidate), compiled in zip(sent, pickle.loads(outcome.value), strict=True):
                    self._compiled(job, candidate, _settled(compiled))
            elif len(sent) > 1:
                return [task for item in sent for task in self._compile_task([item])]
            else:
                status: Status = "timeout" if outcome.status == "timeout" else "error"
                for job, candidate in sent:
                    self._compiled(job, candidate, Measurement(status, message=f"compiling it {outcome.message}"))
            return ()

        if not sent:
            return []
        self.linked += 1
        folders = [self._folder(job.workload) for job, _ in sent]
        library = str(self.workers.folder / "libraries" / f"{self.linked}.so")
        arguments = (pickled, self.device, folders, library, None, self.boards is not None)
        return [_Task("compile_batch", arguments, handle)]

    def _compiled(self, job: Job, candidate: Candidate, found: Compiled | Measurement) -> None:
        job.compiled[candidate] = found
        self.observer.compiled(candidate)

    def _measure_here(self, jobs: Sequence[Job], deadline_s: float) -> None:
        """Measures candidates in one process at a time, and stores each result at once."""
        waiting: list[_Ready] = []
        for job in jobs:
            for candidate in job.candidates:
                found = job.compiled.get(candidate)
                if isinstance(found, Compiled):
                    waiting.append((job, candidate, found))
                elif found is not None and time.monotonic() <= deadline_s:
                    self._measured(candidate, found)
        size = _PROCESS_CANDIDATES
        groups = deque[Sequence[_Ready]](waiting[start : start + size] for start in range(0, len(waiting), size))
        while groups and time.monotonic() <= deadline_s:
            groups.extendleft(reversed(self._measure_group(groups.popleft(), deadline_s)))

    def _measure_group(self, group: Sequence[_Ready], deadline_s: float) -> list[Sequence[_Ready]]:
        """Measures candidates in one process.

        Returns:
            Groups to measure in other processes: those that failed where others had run before, and those that were not
            reached when the process died.
        """
        best = {job.workload: self._best_s(job.workload) for job, _, _ in group}
        requests = [
            self._request(job, candidate, compiled, best[job.workload].get(_ports(candidate), math.inf))
            for job, candidate, compiled in group
        ]
        number = self._submit("measure_each", (requests, deadline_s), self.options.timeout_s)
        again: list[Sequence[_Ready]] = []
        done = 0
        while (outcome := self._outcome()).number != number or outcome.status == "part":
            if outcome.number != number or outcome.value is None:  # as in _parallel
                continue
            found = pickle.loads(outcome.value)
            assert isinstance(found, Measured)
            if found.sentinel_s:
                self.speed.seconds.append(found.sentinel_s)
                self.speed.lost_s += found.lost_s
            if found.measurement.ok or not done:
                self._measured(group[done][1], found.measurement)
            else:
                again.append(group[done : done + 1])
            done += 1
        if outcome.status == "ok" or done == len(group):
            return again
        if done:
            again.append(group[done : done + 1])
        else:
            status: Status = outcome.status if outcome.status in ("crash", "timeout") else "error"
            self._measured(group[0][1], Measurement(status, message=outcome.message))
        return [*again, group[done + 1 :]] if group[done + 1 :] else again

    def _measure_there(self, boards: Boards, jobs: Sequence[Job], deadline_s: float) -> None:
        """Has candidates measured on boards, and stores each result at once."""
        candidates, requests = [], []
        for job in jobs:
            best_s = self._best_s(job.workload)
            for candidate in job.candidates:
                found = job.compiled.get(candidate)
                if isinstance(found, Compiled):
                    candidates.append(candidate)
                    requests.append(self._request(job, candidate, found, best_s.get(_ports(candidate), math.inf)))
                elif found is not None and time.monotonic() <= deadline_s:
                    self._measured(candidate, found)
        for result in boards.measure(requests, str(self._sentinel), deadline_s):
            found = replace(result.measured.measurement, board=result.board)
            self._measured(candidates[result.number], found, boards.fingerprints.get(result.board))

    def _best_s(self, workload: Workload) -> dict[Any, float]:
        """Seconds of the fastest known candidate of a workload, by the formats of its ports."""
        best_s: dict[Any, float] = {}
        for candidate, known in self.results.items():
            if candidate.workload == workload and known.ok:
                _improve(best_s, candidate, known)
        return best_s

    def _measured(self, candidate: Candidate, found: Measurement, fingerprint: Mapping[str, Any] | None = None) -> None:
        found = self._remember(candidate, found, fingerprint)
        self.results[candidate] = found
        self.count += 1
        self.observer.measured(candidate, found)

    def _remember(self, candidate: Candidate, found: Measurement, fingerprint: Mapping[str, Any] | None) -> Measurement:
        """Stores a measurement with the samples that there were before, but for those of a slow machine."""
        before = self.results.get(candidate)
        if before is not None and before.slowdown > found.slowdown == 1.0:
            self.store.put(self.keys[candidate], found, fingerprint)
            return found
        return self.store.add_samples(self.keys[candidate], found, fingerprint)

    def _request(self, job: Job, candidate: Candidate, compiled: Compiled, best_s: float) -> MeasureRequest:
        kind, folder, variant = layer_kind(job.workload.kind), self._folder(job.workload), candidate.variant
        rotated = compiled.weight_bytes if kind.shares_weights(job.workload) else 0
        outputs = tuple(zip(job.workload.outputs, variant.outputs, strict=True))
        return MeasureRequest(
            compiled=compiled,
            inputs=tuple(input_file(folder, position, port) for position, port in enumerate(variant.inputs)),
            outputs=outputs,
            references=tuple(reference_file(folder, i) for i in range(len(outputs))) if kind.has_reference else (),
            copies=weight_copies(rotated, self.residency, self.device),
            threads=self.device.threads,
            best_s=best_s,
            options=self.options,
            sentinel=Sentinel(str(self._sentinel), self.device, self.speed.usual_s, self._patience_s),
        )


def _ports(candidate: Candidate) -> Any:
    return candidate.variant.inputs, candidate.variant.outputs


def _improve(best_s: dict[Any, float], candidate: Candidate, found: Measurement) -> None:
    ports = _ports(candidate)
    best_s[ports] = min(found.median_s, best_s.get(ports, math.inf))


def _settled(compiled: Compiled) -> Compiled | Measurement:
    """The measurement, where none needs to be taken."""
    if compiled.form == "view":
        return OF_VIEWS
    return Measurement("error", message=compiled.message) if compiled.form == "failed" else compiled
