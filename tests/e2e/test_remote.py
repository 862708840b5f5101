"""Measuring on boards: real servers on loopback, and everything that may happen to them. No wait is without a limit."""

from __future__ import annotations

import importlib
import json
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

import softneuro_tvm as sn
from softneuro_tvm.candidates import Candidate
from softneuro_tvm.device import host_device
from softneuro_tvm.errors import BoardError, BoardsLostError
from softneuro_tvm.formats import TensorType
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler import Profiler, ProfileStore, SilentObserver, TimingOptions, Workers
from softneuro_tvm.profiler.boards import SESSION_CANDIDATES
from softneuro_tvm.profiler.files import input_file
from softneuro_tvm.profiler.sentinel import MachineSpeed
from softneuro_tvm.profiler.tasks import compile_batch, compile_sentinel, prepare
from softneuro_tvm.remote import Board
from softneuro_tvm.remote.check import check_board
from softneuro_tvm.remote.driver import BLANK, SPREAD, copy_bytes, rotation_symbol
from softneuro_tvm.remote.module import RemoteModule, on_board
from softneuro_tvm.remote.site import Site

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
faulty = importlib.import_module("faulty_routines")
rpc_servers = importlib.import_module("rpc_servers")

OPTIONS = TimingOptions(timeout_s=5, compile_timeout_s=60)


@pytest.fixture(scope="module")
def servers() -> Iterator[Any]:
    with rpc_servers.serving("two", boards=2) as running:
        yield running


def profiled(
    candidates: list[Candidate], store: ProfileStore, board: Board, observer: Any = None, residency: Any = "l2"
) -> dict[Candidate, Measurement]:
    """Measurements of candidates, of which the store knows nothing."""
    device = host_device(1)
    with Profiler(device, store, options=OPTIONS, residency=residency, board=board, observer=observer) as profiler:
        profiler.look_up(candidates)
        profiler.measure(candidates)
        return {candidate: profiler.results[candidate] for candidate in candidates}


@pytest.fixture(scope="module")
def found(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[type, Measurement]:
    with ProfileStore(tmp_path_factory.mktemp("store") / "profile.sqlite") as store:
        results = profiled(faulty.candidates(*faulty.EXPECTED), store, servers.board())
    return {type(candidate.routine): measurement for candidate, measurement in results.items()}


@pytest.mark.parametrize("routine", faulty.EXPECTED)
def test_each_fault_is_told_apart(found: dict[type, Measurement], routine: type) -> None:
    measurement = found[routine]
    assert measurement.status == faulty.EXPECTED[routine], measurement.message
    if measurement.ok:
        assert 0 <= measurement.median_s < 1 and measurement.error < 1e-5
    else:
        assert measurement.message and measurement.median_s == math.inf


def test_a_candidate_is_blamed_by_two_boards(found: dict[type, Measurement], servers: Any) -> None:
    for routine in (faulty.Aborting, faulty.Hanging):
        message = found[routine].message
        assert all(f"on 127.0.0.1:{port}" in message for port in servers.boards), message
    assert "exceeds its bound" in found[faulty.Wrong].message
    assert "never written" in found[faulty.NotWritten].message


@pytest.mark.parametrize("residency", ["l2", "l3", "dram"])
def test_weights_rotate_and_inputs_are_the_same(servers: Any, tmp_path: Path, residency: str) -> None:
    candidates = faulty.candidates(faulty.Plain, faulty.AsRelax, of=faulty.workload(5, 64, 48))
    with ProfileStore(tmp_path / "profile.sqlite", fingerprint={"digest": "here"}) as store:
        results = profiled(candidates, store, servers.board(), residency=residency)
        rows = [row for row in store.rows()]
    boards = {f"127.0.0.1:{port}" for port in servers.boards}
    for measurement in results.values():
        assert measurement.ok and len(measurement.samples_s) >= OPTIONS.min_samples, measurement.message
        assert measurement.board in boards
    for row in rows:
        assert row.fingerprint is not None and row.fingerprint["part"] == host_device(1).part
        assert [session.taken["board"] for session in row.sessions] == [row.measurement.board]


def test_calls_take_the_next_copy_of_the_weights(tmp_path: Path) -> None:
    host, (candidate,) = host_device(1), faulty.candidates(faulty.Plain)
    prepare(candidate.workload, list(enumerate(candidate.variant.inputs)), str(tmp_path))
    (compiled,) = compile_batch([pickle.dumps(candidate)], host, [str(tmp_path)], str(tmp_path / "lib.so"), None, True)
    compile_sentinel(host, str(tmp_path / "tools.so"), elsewhere=True)
    library = tvm.runtime.load_module(compiled.library)
    tools = tvm.runtime.load_module(str(tmp_path / "tools.so"))
    x, bias, weight = (
        np.load(path) for path in (input_file(str(tmp_path), 0, candidate.variant.inputs[0]), *compiled.weights)
    )
    stride = copy_bytes([TensorType(array.shape) for array in (bias, weight)])
    pool = tvm.runtime.tensor(np.zeros(3 * stride, np.uint8))
    tools[SPREAD](pool, tvm.runtime.tensor(bias), bias.nbytes, 0, stride, 3)
    tools[SPREAD](pool, tvm.runtime.tensor(weight), weight.nbytes, 64, stride, 3)
    biases = pool.numpy().reshape(3, stride)[:, : bias.nbytes].copy().view(np.float32)
    assert np.array_equal(biases, np.stack([bias] * 3))
    changed = pool.numpy().reshape(3, stride).copy()
    for copy in range(3):
        changed[copy, : bias.nbytes] = (bias + copy).view(np.uint8)
    pool.copyfrom(changed.reshape(-1))
    output, cursor = tvm.runtime.tensor(np.zeros((4, 16), np.float32)), tvm.runtime.tensor(np.zeros(1, np.int64))
    for copy in (0, 1, 2, 0):
        tools[BLANK](output, 4 * 16 * 4)
        assert np.isnan(output.numpy()).all()
        library[rotation_symbol(compiled.symbol)](tvm.runtime.tensor(x), pool, output, cursor, 3)
        np.testing.assert_allclose(output.numpy(), x @ weight.T + bias + copy, rtol=1e-4, atol=1e-4)


def test_tuning_is_as_here(servers: Any, tmp_path: Path) -> None:
    model = sn.load("zoo:digits")
    plan = sn.tune(model, device=host_device(1), store=tmp_path / "s.sqlite", board=servers.board())
    assert {name for choice in plan.layers for name in (choice.covers or (choice.layer,))} == {
        layer.name for layer in model.graph.layers
    }
    assert plan.device["part"] == f"{host_device(1).part} (two)" or plan.device["part"] == host_device(1).part
    with ProfileStore(tmp_path / "s.sqlite") as store:
        used = {row.measurement.board for row in store.rows()}
    assert {f"127.0.0.1:{port}" for port in servers.boards} <= used
    again = sn.tune(model, device=host_device(1), store=tmp_path / "s.sqlite", board=servers.board())
    assert again.to_json() == plan.to_json()
    module = sn.build(model, plan)
    with on_board(servers.board(), module) as there:
        assert sn.verify(model, plan, there).error < 1e-4
        tensors = there.tensors([], {"input": np.zeros((1, 1, 16, 16), np.float32)})
        assert len(there.time(tensors, repeat=3)) == 3


class Killer(SilentObserver):
    """Kills all boards once something was measured."""

    def __init__(self, servers: Any) -> None:
        self.servers, self.measured_before = servers, 0

    def measured(self, candidate: Candidate, measurement: Measurement) -> None:
        self.measured_before += 1
        for process in self.servers.boards.values():
            rpc_servers.end(process)


def test_a_board_that_is_always_slow_is_measured_as_it_is(servers: Any, tmp_path: Path) -> None:
    first, second = (faulty.candidates(faulty.Plain, of=faulty.workload(n)) for n in (11, 12))
    options = replace(OPTIONS, patience_s=600.0, total_patience_s=1.0)
    with (
        ProfileStore(tmp_path / "profile.sqlite") as store,
        Profiler(host_device(1), store, options=options, residency="l2", board=servers.board()) as profiler,
    ):
        profiler.look_up([*first, *second])
        profiler.measure(first)
        assert profiler._session is not None and profiler._session.boards is not None
        for port in servers.boards:  # it was much faster once, and was waited for
            profiler._session.boards.speeds[f"127.0.0.1:{port}"] = MachineSpeed([1e-9] * 9, 1.0)
        profiler.measure(second)
        assert profiler.results[second[0]].slowdown > 100, profiler.results[second[0]]


def test_lost_boards_end_tuning_and_keep_results(tmp_path: Path) -> None:
    # more than one session's, so that not all can have been measured before the first result arrives here
    candidates = [
        c for n in range(20, 21 + SESSION_CANDIDATES) for c in faulty.candidates(faulty.Plain, of=faulty.workload(n))
    ]
    with rpc_servers.serving("lost") as servers, ProfileStore(tmp_path / "profile.sqlite") as store:
        killer = Killer(servers)
        begin_s = time.monotonic()
        with pytest.raises(BoardsLostError, match=r"what was measured is kept"):
            profiled(candidates, store, servers.board(patience_s=3, connect_timeout_s=5), killer)
        assert time.monotonic() - begin_s < 60
        kept = list(store.records())
        assert 1 <= len(kept) == killer.measured_before and all(m.ok for _, m in kept)
        servers.start_board()
        results = profiled(candidates, store, servers.board())
        assert all(measurement.ok for measurement in results.values())


def test_the_own_server_of_tvm_dies_of_a_crash_and_the_others_are_kept(tmp_path: Path) -> None:
    candidates = faulty.candidates(faulty.Plain, faulty.Aborting, of=faulty.workload(8))
    with rpc_servers.serving("stock", stock=True) as servers, ProfileStore(tmp_path / "profile.sqlite") as store:
        with pytest.raises(BoardsLostError):
            profiled(candidates, store, servers.board(patience_s=3, connect_timeout_s=5))
        assert [(key.routine, found.status) for key, found in store.records()] == [("dense/plain", "ok")]


def test_a_board_that_vanishes_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    candidates = faulty.candidates(faulty.Plain, faulty.AsRelax, of=faulty.workload(9))
    with rpc_servers.serving("moment") as servers, ProfileStore(tmp_path / "profile.sqlite") as store:
        (port,) = servers.boards
        os.killpg(servers.boards[port].pid, signal.SIGKILL)
        servers.boards.pop(port).wait(10)
        timer = threading.Timer(4, servers.start_board, kwargs={"port": port})
        timer.start()
        results = profiled(candidates, store, servers.board(connect_timeout_s=5))
        timer.join()
    assert all(measurement.ok for measurement in results.values())


def test_a_peer_that_never_answers_is_given_up() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        begin_s = time.monotonic()
        with pytest.raises(BoardError, match="did not finish within 4 s"):
            Site(Board(server=("127.0.0.1", deaf.getsockname()[1]), connect_timeout_s=2))
        assert time.monotonic() - begin_s < 45


def test_unknown_and_busy_keys_are_told_apart(servers: Any) -> None:
    begin_s = time.monotonic()
    with pytest.raises(BoardError, match=r"no board with the key 'rpi9', only two"):
        Site(Board(("127.0.0.1", servers.tracker_port), "rpi9", connect_timeout_s=2))
    with rpc_servers.serving("busy") as single, Workers() as holder:
        request = importlib.import_module("softneuro_tvm.remote.tracker").request
        request(("127.0.0.1", single.tracker_port), "busy", 5)  # it is ours now, and is not used
        with pytest.raises(BoardError, match=r"no board with the key 'busy' within 2 s: its 1 board\(s\) are busy"):
            Site(Board(("127.0.0.1", single.tracker_port), "busy", connect_timeout_s=2))
        assert holder.folder.exists()
    assert time.monotonic() - begin_s < 90


def test_a_damaged_library_is_not_sent(servers: Any, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(Path(sys.executable).resolve().read_bytes()[:5000])
    with Site(servers.board()) as site, pytest.raises(BoardError, match=r"was not sent to the board"):
        RemoteModule(site, damaged)


def test_a_board_is_checked(servers: Any) -> None:
    findings = {finding.subject: finding for finding in check_board(servers.board(), host_device(1))}
    assert {"tracker", "board", "TVM", "processor", "target", "threads", "line", "noise"} <= set(findings)
    assert findings["tracker"].ok and "2 board(s)" in findings["tracker"].found
    assert "reference kernel" in findings["noise"].found
    (only,) = check_board(Board(("127.0.0.1", rpc_servers.free_port()), "x", connect_timeout_s=2), None)
    assert not only.ok and "cannot be reached" in only.remedy


FACTS = {
    "part": "ARM Cortex-A76 r4p1",
    "cores": 4,
    "governor": "ondemand",
    "temperature_c": 91.5,
    "memory_free_bytes": 100 << 20,
    "frequency_hz": 2.4e9,
    "time_s": 1000.0,
    "tvm": "0.26.0",
    "features": sorted(host_device().features),
}
SERVER = """
import sys, time
from tvm import rpc
def offer():
    import tvm_ffi
    tvm_ffi.register_global_func("softneuro.system_info", lambda: {facts!r})
server = rpc.Server("127.0.0.1", port={port}, port_end={port} + 1, server_init_callback=offer)
time.sleep(600)
"""


def test_a_board_that_says_what_it_is(tmp_path: Path) -> None:
    port = rpc_servers.free_port()
    code = SERVER.format(facts=json.dumps(FACTS), port=port)
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL)
    board = Board(server=("127.0.0.1", port), connect_timeout_s=20)
    try:
        deadline_s = time.monotonic() + 60
        while not (findings := {f.subject: f for f in check_board(board, host_device(1))}).keys() >= {"noise"}:
            assert time.monotonic() < deadline_s, findings
            time.sleep(0.5)
        with ProfileStore(tmp_path / "profile.sqlite") as store, Site(board) as site:
            device = site.device(host_device(1))
            assert device.part == FACTS["part"]
            with Profiler(device, store, options=OPTIONS, residency="l2", board=board) as profiler:
                candidates = faulty.candidates(faulty.Plain)
                profiler.look_up(candidates)
                profiler.measure(candidates)
            (row,) = store.rows()
    finally:
        rpc_servers.end(process)
    assert {name for name, finding in findings.items() if not finding.ok} >= {"TVM", "temperature", "memory", "clock"}
    assert "performance" in findings["governor"].remedy and "0.26.0 there" in findings["TVM"].found
    assert row.key.part == FACTS["part"] and row.measurement.board == f"127.0.0.1:{port}"
    assert row.fingerprint is not None
    assert [row.fingerprint[name] for name in ("governor", "cores", "tvm")] == ["ondemand", 4, "0.26.0"]
