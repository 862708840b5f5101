from __future__ import annotations

import importlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softneuro_tvm import linking
from softneuro_tvm.candidates import Candidate
from softneuro_tvm.device import Device, host_device
from softneuro_tvm.errors import BuildError, ProfileError
from softneuro_tvm.formats import pack
from softneuro_tvm.machine import machine_lock
from softneuro_tvm.profiler import Measurement, Profiler, ProfileStore, TimingOptions, Workers
from softneuro_tvm.profiler.tasks import _packed

SUPPORT = Path(__file__).parents[1] / "support"
sys.path.insert(0, str(SUPPORT))
faulty = importlib.import_module("faulty_routines")

OPTIONS = TimingOptions(timeout_s=3, compile_timeout_s=60)


class Recorder:
    """Keeps what the profiler reports."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def started(self, total: int, known: int) -> None:
        self.calls.append(("started", total, known))

    def round(self, count: int, open_count: int, best_s: float, bound_s: float) -> None:
        self.calls.append(("round", count))

    def compiled(self, candidate: Candidate) -> None:
        self.calls.append(("compiled", candidate))

    def measured(self, candidate: Candidate, measurement: Measurement) -> None:
        self.calls.append(("measured", candidate, measurement))

    def finished(self) -> None:
        self.calls.append(("finished",))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProfileStore]:
    with ProfileStore(tmp_path_factory.mktemp("store") / "profile.sqlite") as opened:
        yield opened


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


Profile = dict[Candidate, Measurement]


def profiled(candidates: list[Candidate], device: Device, store: ProfileStore, **arguments: Any) -> Profile:
    """Has the candidates measured that the store does not know."""
    with Profiler(device, store, **arguments) as profiler:
        profiler.look_up(candidates)
        if missing := [candidate for candidate in candidates if candidate not in profiler.results]:
            profiler.measure(missing)
        return {candidate: profiler.results[candidate] for candidate in candidates}


@pytest.fixture(scope="module")
def profile(store: ProfileStore, recorder: Recorder) -> Profile:
    candidates = faulty.candidates(*faulty.EXPECTED)
    return profiled(candidates, host_device(1), store, observer=recorder, options=OPTIONS, residency="l2")


@pytest.mark.parametrize("routine", faulty.EXPECTED)
def test_each_fault_is_told_apart(profile: Profile, routine: type) -> None:
    found = next(found for candidate, found in profile.items() if type(candidate.routine) is routine)
    assert found.status == faulty.EXPECTED[routine], found.message
    if found.ok:
        assert 0 <= found.median_s < 1 and found.error < 1e-5
    else:
        assert found.message and found.median_s == math.inf


def test_messages_say_what_happened(profile: Profile) -> None:
    texts = {type(candidate.routine): found.message for candidate, found in profile.items()}
    assert "no kernel today" in texts[faulty.Raising]
    assert "undefined" in texts[faulty.NotCompilable]
    assert "SIGABRT" in texts[faulty.Aborting]
    assert "compiling it was ended by SIGABRT" in texts[faulty.KillsCompiler]
    assert "exceeds its bound" in texts[faulty.Wrong]
    assert "never written" in texts[faulty.NotWritten]


def test_progress_is_reported(profile: Profile, recorder: Recorder) -> None:
    assert {call[1] for call in recorder.calls if call[0] == "compiled"} == set(profile)
    assert {call[1]: call[2] for call in recorder.calls if call[0] == "measured"} == dict(profile)


def test_the_second_run_measures_nothing(profile: Profile, store: ProfileStore) -> None:
    recorder = Recorder()
    again = profiled(faulty.candidates(*faulty.EXPECTED), host_device(1), store, observer=recorder, residency="l2")
    assert not recorder.calls
    routines = [[type(candidate.routine) for candidate in p] for p in (profile, again)]
    assert routines[0] == routines[1] and list(profile.values()) == list(again.values())


def test_a_bad_candidate_does_not_spoil_its_library(store: ProfileStore) -> None:
    candidates = faulty.candidates(faulty.Plain, faulty.NotCompilable, faulty.KillsCompiler, of=faulty.workload(3))
    found = profiled(candidates, host_device(1), store, options=OPTIONS)
    assert [found[candidate].status for candidate in candidates] == ["ok", "error", "error"]


def test_a_compiler_that_hangs_is_ended(store: ProfileStore) -> None:
    candidates = faulty.candidates(faulty.HangsCompiler, of=faulty.workload(6))
    found = profiled(candidates, host_device(1), store, options=TimingOptions(compile_timeout_s=2))
    assert found[candidates[0]].status == "timeout" and "compiling" in found[candidates[0]].message


def test_a_routine_that_cannot_travel_is_explained(store: ProfileStore) -> None:
    class Local(faulty.Plain):  # type: ignore[misc, name-defined]
        name = "dense/local"

    candidates = faulty.candidates(Local, faulty.Plain, of=faulty.workload(5))
    found = profiled(candidates, host_device(1), store, options=OPTIONS)
    assert found[candidates[0]].status == "error" and "top of a module" in found[candidates[0]].message
    assert found[candidates[1]].ok


@pytest.mark.parametrize("residency", ["l3", "dram"])
def test_cold_weights_are_measured_apart(store: ProfileStore, residency: str) -> None:
    candidates = faulty.candidates(faulty.Plain, of=faulty.workload(1, 512, 512))
    found = profiled(candidates, host_device(1), store, options=OPTIONS, residency=residency)
    assert found[candidates[0]].ok
    kept = {key.residency for key, _ in store.records() if key.workload == candidates[0].workload.json}
    assert residency in kept


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize(("threads", "status"), [(1, "timeout"), (2, "wrong")])
def test_kernels_get_the_threads_asked_for(store: ProfileStore, threads: int, status: str) -> None:
    candidates = faulty.candidates(faulty.Rendezvous)
    found = profiled(candidates, host_device(threads), store, options=OPTIONS)
    assert found[candidates[0]].status == status, found[candidates[0]].message


def test_padding_lanes_of_inputs_hold_garbage() -> None:
    array = np.arange(2 * 3 * 2 * 2, dtype="float32").reshape(2, 3, 2, 2)
    packed, clean = _packed(array, "NCHW4c"), pack(array, "NCHW4c")
    assert (packed[..., :3] == clean[..., :3]).all() and (packed[..., 3] != 0).all()
    assert (_packed(array, "NHWC") == pack(array, "NHWC")).all()


def test_nothing_is_done_while_another_profiler_measures(tmp_path: Path) -> None:
    recorder = Recorder()

    def tune() -> None:
        with ProfileStore(tmp_path / "p.sqlite") as own:
            profiled(faulty.candidates(faulty.Plain), host_device(1), own, observer=recorder)

    with machine_lock():
        thread = threading.Thread(target=tune)
        thread.start()
        thread.join(2)
        held = list(recorder.calls)
    thread.join()
    assert not held
    assert recorder.calls[-1][0] == "measured"


def test_measuring_ends_when_no_time_is_left_to_begin(store: ProfileStore) -> None:
    candidates = faulty.candidates(faulty.Plain, of=faulty.workload(8))
    with Profiler(host_device(1), store) as profiler:
        profiler.look_up(candidates)
        profiler.measure(candidates, time.monotonic() - 1)
        assert profiler.measured == 0 and not profiler.results


def test_a_server_that_dies_is_reported(store: ProfileStore) -> None:
    with Workers() as workers:
        workers._process.kill()
        with pytest.raises(ProfileError, match="run again"):
            profiled(faulty.candidates(faulty.Plain, of=faulty.workload(7)), host_device(1), store, workers=workers)
    assert not workers.folder.exists()


def test_a_missing_linker_is_explained(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(linking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BuildError, match="pip install ziglang"):
        linking.linker()
    with pytest.raises(ProfileError, match="pip install ziglang"):
        profiled(faulty.candidates(faulty.Plain, of=faulty.workload(8)), host_device(1), store)


def test_a_linker_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false --with options")
    with pytest.raises(BuildError, match="false --with options -shared"):
        linking.linker()(str(tmp_path / "a.so"), [])


TUNE = """
import sys
sys.path.insert(0, sys.argv[1])
import faulty_routines as faulty
from softneuro_tvm.device import host_device
from softneuro_tvm.profiler import Profiler, ProfileStore, SilentObserver, Workers

class Tell(SilentObserver):
    def measured(self, candidate, measurement):
        print(candidate.routine.name, measurement.status, flush=True)

with ProfileStore(sys.argv[2]) as store, Workers() as workers:
    print(workers.folder, flush=True)
    try:
        candidates = faulty.candidates(faulty.Plain, faulty.Hanging)
        with Profiler(host_device(1), store, observer=Tell(), workers=workers) as profiler:
            profiler.look_up(candidates)
            profiler.measure(candidates)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def processes_with(token: str) -> list[int]:
    """Processes whose environment holds a text."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and token.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_behind(tmp_path: Path, ending: signal.Signals) -> None:
    token = f"SOFTNEURO_TEST={tmp_path.name}-{os.getpid()}"
    name, _, value = token.partition("=")
    command = [sys.executable, "-c", TUNE, str(SUPPORT), str(tmp_path / "p.sqlite")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, name: value}) as tuner:
        assert tuner.stdout is not None
        folder = Path(tuner.stdout.readline().strip())
        assert tuner.stdout.readline() == "dense/plain ok\n"  # the next candidate hangs now
        assert folder.exists() and len(processes_with(token)) >= 2
        tuner.send_signal(ending)
        rest = tuner.stdout.read()
    assert rest == ("interrupted\n" if ending == signal.SIGINT else "")
    deadline = time.monotonic() + 30
    while (processes_with(token) or folder.exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_with(token) and not folder.exists()
    with ProfileStore(tmp_path / "p.sqlite") as store:
        assert [found.status for _, found in store.records()] == ["ok"]
