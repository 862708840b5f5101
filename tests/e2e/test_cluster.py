"""Compiling on dask's workers: a cluster of one worker process on this machine."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import softneuro_tvm as sn
from softneuro_tvm.candidates import Candidate
from softneuro_tvm.device import Device, host_device
from softneuro_tvm.errors import ClusterError
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.object_cache import ENVIRONMENT_VARIABLE
from softneuro_tvm.pipeline import TuneOptions
from softneuro_tvm.profiler import Profiler, ProfileStore, SilentObserver, TimingOptions, cluster, generating
from softneuro_tvm.profiler.cluster import CompileCluster

distributed = pytest.importorskip("distributed", reason="compiling on a cluster needs the extra [distributed]")

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
faulty = importlib.import_module("faulty_routines")
rpc_servers = importlib.import_module("rpc_servers")

HOST = host_device(1)
OPTIONS = TimingOptions(timeout_s=3, compile_timeout_s=60)


@pytest.fixture(scope="module")
def objects_there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the worker keeps objects."""
    return tmp_path_factory.mktemp("worker")


@pytest.fixture(scope="module")
def scheduler(objects_there: Path) -> Iterator[str]:
    """The address of a scheduler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT_VARIABLE, str(objects_there))
        local = distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0", silence_logs=50)
    with local:
        yield str(local.scheduler_address)


def profiled(
    candidates: list[Candidate], address: str, store: Path, options: TimingOptions = OPTIONS, observer: Any = None
) -> list[tuple[type, Measurement]]:
    """Measurements of candidates that were compiled on the cluster, by routine."""
    with (
        CompileCluster(address, HOST) as workers,
        ProfileStore(store / "profile.sqlite") as records,
        Profiler(HOST, records, options=options, residency="l2", cluster=workers, observer=observer) as profiler,
    ):
        profiler.look_up(candidates)
        profiler.measure(candidates)
        return [(type(candidate.routine), profiler.results[candidate]) for candidate in candidates]


def test_faults_are_told_apart_and_objects_are_kept_here(
    scheduler: str, objects_there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "objects"))
    found = dict(profiled(faulty.candidates(*faulty.EXPECTED), scheduler, tmp_path))
    assert {routine: measurement.status for routine, measurement in found.items()} == faulty.EXPECTED
    assert "no kernel today" in found[faulty.Raising].message
    kept = {path.name for path in (tmp_path / "objects").glob("*/*.o")}
    kernels = (faulty.Plain, faulty.Wrong, faulty.NotWritten, faulty.Aborting, faulty.Hanging)
    assert len(kept) == len(kernels) and kept <= {path.name for path in objects_there.glob("*/*.o")}


def test_what_a_candidate_does_to_its_compiler_is_its_result(scheduler: str, tmp_path: Path) -> None:
    candidates = faulty.candidates(faulty.Plain, faulty.KillsGenerator, of=faulty.workload(3))
    candidates += faulty.candidates(faulty.HangsGenerator, of=faulty.workload(4))
    found = dict(profiled(candidates, scheduler, tmp_path, TimingOptions(compile_timeout_s=6)))
    assert [measurement.status for measurement in found.values()] == ["ok", "error", "timeout"]
    assert "compiling it was ended by SIGABRT (on a dask worker)" in found[faulty.KillsGenerator].message
    assert "did not finish within 6 s" in found[faulty.HangsGenerator].message


class Calling(SilentObserver):
    """Calls something when the first candidate is compiled."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function: Callable[[], None] | None = function

    def compiled(self, candidate: Candidate) -> None:
        if self.function is not None:
            function, self.function = self.function, None
            function()


def test_what_a_lost_worker_was_to_compile_another_one_does(scheduler: str, tmp_path: Path) -> None:
    candidates = [c for n in range(10, 16) for c in faulty.candidates(faulty.Plain, of=faulty.workload(n))]

    def kill() -> None:
        with distributed.Client(scheduler, set_as_default=False) as client:
            (process,) = client.run(os.getpid).values()
        os.kill(process, signal.SIGKILL)

    calling = Calling(kill)
    found = profiled(candidates, scheduler, tmp_path, observer=calling)
    assert calling.function is None and all(measurement.ok for _, measurement in found)


@pytest.mark.parametrize(("ending", "said"), [("close", "is gone"), ("scale", "has lost all its workers")])
def test_a_cluster_that_vanishes_ends_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, said: str
) -> None:
    monkeypatch.setattr(cluster, "_PATIENCE_S", 1.0)
    monkeypatch.setattr(cluster, "_LOOK_S", 0.2)
    candidates = [c for n in range(20, 26) for c in faulty.candidates(faulty.Plain, of=faulty.workload(n))]
    local = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=50)
    with local:
        end = local.close if ending == "close" else lambda: local.scale(0)
        with pytest.raises(ClusterError, match=rf"dask scheduler tcp://\S+ {said}; what was measured is kept"):
            profiled(candidates, str(local.scheduler_address), tmp_path, observer=Calling(end))


def test_tuning_is_as_here(scheduler: str, tmp_path: Path) -> None:
    model = sn.load("zoo:digits")
    options = TuneOptions(budget_s=5, finals=False, dask_scheduler=scheduler)
    plan = sn.tune(model, device=HOST, store=tmp_path / "s.sqlite", options=options)
    assert plan.tuning["measured"] >= len(model.graph.layers) - 1
    assert sn.verify(model, plan, sn.build(model, plan)).error < 1e-4


def test_boards_measure_what_the_cluster_has_compiled(scheduler: str, tmp_path: Path) -> None:
    candidates = faulty.candidates(faulty.Plain, faulty.AsRelax, faulty.AsView, of=faulty.workload(5, 64, 48))
    with (
        rpc_servers.serving("both") as servers,
        CompileCluster(scheduler, HOST) as workers,
        ProfileStore(tmp_path / "profile.sqlite") as records,
        Profiler(HOST, records, residency="dram", board=servers.board(), cluster=workers) as profiler,
    ):
        profiler.look_up(candidates)
        profiler.measure(candidates)
        found = [profiler.results[candidate] for candidate in candidates]
    assert [measurement.status for measurement in found] == ["ok"] * 3, found
    assert [bool(measurement.board) for measurement in found] == [True, True, False]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tvm": "0.26.0"}, r"apache-tvm .*, here 0\.26\.0"),
        ({"sources": "others"}, r"routines of another version \(.*\), here others"),
        ({"platform": "linux riscv64"}, r"another platform, linux .*, here linux riscv64"),
    ],
)
def test_a_worker_that_would_compile_something_else_is_refused(
    scheduler: str, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], said: str
) -> None:
    here = replace(generating.toolchain(), **change)
    monkeypatch.setattr(generating, "toolchain", lambda: here)
    with pytest.raises(ClusterError, match=rf"worker tcp://\S+ has {said}; install there what is installed here"):
        CompileCluster(scheduler, HOST)


def test_the_platform_matters_only_where_the_target_does_not_say_it(scheduler: str) -> None:
    here = replace(generating.toolchain(), platform="linux riscv64")
    arm = Device("arm", {"kind": "llvm", "mtriple": "aarch64-linux-gnu"})
    assert cluster.differences_of(generating.toolchain(), here, HOST)
    assert not cluster.differences_of(generating.toolchain(), here, arm)


def test_a_scheduler_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_S", 1.0)
    address, begin_s = f"tcp://127.0.0.1:{rpc_servers.free_port()}", time.monotonic()
    with pytest.raises(ClusterError, match=rf"{address} cannot be reached: .*start one with `dask scheduler`"):
        CompileCluster(address, HOST)
    assert time.monotonic() - begin_s < 60


@pytest.mark.parametrize(("address", "said"), [("nonsense://x:1", "unknown address scheme"), ("x", "missing port")])
def test_an_address_that_is_none_is_explained(address: str, said: str) -> None:
    with pytest.raises(ClusterError, match=rf"{address} cannot be reached: {said}"):
        CompileCluster(address, HOST)


def test_a_scheduler_without_workers_is_refused() -> None:
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=50) as local:
        with pytest.raises(ClusterError, match=r"has no workers; start some with `dask worker tcp://"):
            CompileCluster(str(local.scheduler_address), HOST)
