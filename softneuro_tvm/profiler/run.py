"""The profiler's entry: looks candidates up, and hands the missing ones to a session in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from softneuro_tvm.device import Device, available_cores
from softneuro_tvm.graph import Workload
from softneuro_tvm.measurement import Profile
from softneuro_tvm.profiler.keys import Residency, measurement_key
from softneuro_tvm.profiler.observer import Observer, SilentObserver
from softneuro_tvm.profiler.session import Job, Session
from softneuro_tvm.profiler.store import ProfileStore
from softneuro_tvm.profiler.timing import TimingOptions
from softneuro_tvm.profiler.workers import Workers
from softneuro_tvm.routine import Candidate

_BATCH_CANDIDATES = 32
"""Candidates for each core in a batch: at the end of a batch's compilation cores idle, so batches are not small."""
_BATCH_BYTES = 512 << 20
"""Bytes of sample data in a batch, roughly."""


def profile_candidates(
    candidates: Iterable[Candidate],
    device: Device,
    store: ProfileStore,
    *,
    residency: Residency = "dram",
    observer: Observer | None = None,
    options: TimingOptions | None = None,
    workers: Workers | None = None,
) -> Profile:
    """Measures candidates on this machine; those in the store are not measured again.

    An interrupt (Ctrl-C) ends all work; what was measured until then is in the store, so the next call resumes.

    Args:
        candidates: What to measure, each workload's most promising ones first.
        device: This machine, with the number of threads to tune for.
        store: Where results are kept.
        residency: Where the network's weights lie, see `residency_of`.
        observer: Told of the progress.
        options: How long to time.
        workers: A fork server that was started early; one is started and ended here if None.

    Raises:
        ProfileError: measuring cannot go on: no linker, a full disk, no memory.
        StoreError: the store cannot be read or written.
    """
    keys = {candidate: measurement_key(candidate, device, residency) for candidate in candidates}
    known = store.get_many(keys.values())
    results = {candidate: known[key] for candidate, key in keys.items() if key in known}
    missing = [candidate for candidate in keys if candidate not in results]
    watcher = observer or SilentObserver()
    watcher.started(len(keys), len(results))
    if missing:
        with ExitStack() as stack:
            session = Session(
                replace(device, target=dict(device.target)),
                store,
                residency,
                watcher,
                options or TimingOptions(),
                workers or stack.enter_context(Workers()),
                keys,
                results,
            )
            for jobs in _batches(missing):
                session.run(jobs)
    watcher.finished()
    return Profile({candidate: results[candidate] for candidate in keys}, len(missing))


def _batches(candidates: Sequence[Candidate]) -> Iterator[list[Job]]:
    """Groups candidates by workload, and workloads into batches."""
    by_workload: dict[Workload, list[Candidate]] = {}
    for candidate in candidates:
        by_workload.setdefault(candidate.workload, []).append(candidate)
    batch: list[Job] = []
    count = size = 0
    for workload, group in by_workload.items():
        tensors = sum(t.size_bytes for t in (*workload.inputs, *workload.outputs)) * 3
        needed = tensors + 4 * sum(t.size_bytes for _, t in workload.weights)
        if batch and (count + len(group) > _BATCH_CANDIDATES * available_cores() or size + needed > _BATCH_BYTES):
            yield batch
            batch, count, size = [], 0, 0
        batch.append(Job(workload, group))
        count, size = count + len(group), size + needed
    if batch:
        yield batch
