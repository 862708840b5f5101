"""From this machine to an emulated ARM board: compiled and linked here, measured and run there. No time is asserted."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import softneuro_tvm as sn
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.elf_header import machine_of
from softneuro_tvm.errors import BuildError
from softneuro_tvm.linking import CROSS_COMPILER_VARIABLE
from softneuro_tvm.profiler import Profiler, ProfileStore, TimingOptions
from softneuro_tvm.remote import Board
from softneuro_tvm.remote.module import on_board
from softneuro_tvm.selection import select

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
faulty = importlib.import_module("faulty_routines")
made_up = importlib.import_module("made_up")
rpc_servers = importlib.import_module("rpc_servers")

SCRIPT = Path(__file__).parents[2] / "scripts" / "arm_board.py"
DEVICE = "cortex-a76"


def compilers() -> list[str]:
    """Commands that link for ARM."""
    found = ["aarch64-linux-gnu-gcc"] if shutil.which("aarch64-linux-gnu-gcc") else []
    if importlib.util.find_spec("ziglang"):
        found.append(f"{sys.executable} -m ziglang cc -nostdlib -target aarch64-linux-gnu")
    return found


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    command = [sys.executable, str(SCRIPT), "--no-install"]
    done = subprocess.run([*command, "--setup-only"], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    port = rpc_servers.free_port()
    # not what libraries that were loaded into this process have set
    environment = dict(os.environ)
    arguments = [*command, "--port", str(port), "--port-end", str(port + 1)]
    running = subprocess.Popen(arguments, start_new_session=True, env=environment)
    try:
        deadline_s = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 5).close()
                break
            except OSError:
                assert time.monotonic() < deadline_s, "the emulated board does not start"
                time.sleep(0.2)
        yield Board(server=("127.0.0.1", port), connect_timeout_s=60, patience_s=60)
    finally:
        rpc_servers.end(running)


def test_candidates_are_measured_there(board: Board, tmp_path: Path) -> None:
    expected = {faulty.Plain: "ok", faulty.Aborting: "crash", faulty.Wrong: "wrong", faulty.AsRelax: "ok"}
    candidates = faulty.candidates(*expected)
    device = sn.load_device(DEVICE, 1)
    with ProfileStore(tmp_path / "profile.sqlite") as store:
        options = TimingOptions(timeout_s=60, max_total_s=0.1)
        with Profiler(device, store, options=options, residency="dram", board=board) as profiler:
            profiler.look_up(candidates)
            profiler.measure(candidates)
            assert {type(c.routine): found.status for c, found in profiler.results.items()} == expected


@pytest.fixture(scope="module")
def planned() -> tuple[Any, Any]:
    """A network, and a plan for the board; made up, for emulated times mean nothing."""
    model, device = sn.load("zoo:digits"), sn.load_device(DEVICE, 2)
    candidates = enumerate_candidates(model.graph, device)
    return model, select(model.graph, candidates, made_up.profile(candidates.all()), device)


@pytest.mark.skipif(not compilers(), reason="neither a cross compiler nor ziglang is installed")
@pytest.mark.parametrize("compiler", compilers() or [""])
def test_a_network_is_built_here_and_runs_there(
    board: Board, planned: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    model, plan = planned
    monkeypatch.setenv(CROSS_COMPILER_VARIABLE, compiler)
    module = sn.build(model, sn.Plan.from_json(plan.to_json()))
    library = tmp_path / "digits.so"
    module.export(library)
    assert machine_of(library) == "aarch64"
    for refused in (lambda: sn.load_module(library), lambda: module.run([])):
        with pytest.raises(BuildError, match=r"built for aarch64, this machine is .* on a board from here"):
            refused()
    with on_board(board, module) as there:
        agreement = sn.verify(model, plan, there)
        assert agreement.reference == "onnxruntime" and agreement.error < 1e-4
        assert there.threads == 2 and there.manifest["graph"] == model.graph.digest
