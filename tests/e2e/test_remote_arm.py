"""From this machine to an emulated ARM board: compiled and linked here, measured and run there. No time is asserted."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import softneuro_tvm as sn
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.elf_header import machine_of
from softneuro_tvm.errors import BoardError, BuildError
from softneuro_tvm.linking import CROSS_COMPILER_VARIABLE
from softneuro_tvm.profiler import Profiler, ProfileStore, TimingOptions
from softneuro_tvm.reference import sample_inputs
from softneuro_tvm.remote import Board
from softneuro_tvm.remote.module import on_board
from softneuro_tvm.selection import select
from tests.support.arm_board import arm_board_command

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
faulty = importlib.import_module("faulty_routines")
made_up = importlib.import_module("made_up")
rpc_servers = importlib.import_module("rpc_servers")

DEVICE = "cortex-a76"


def compilers() -> list[str]:
    """Commands that link for ARM."""
    found = ["aarch64-linux-gnu-gcc"] if shutil.which("aarch64-linux-gnu-gcc") else []
    if importlib.util.find_spec("ziglang"):
        found.append(f"{sys.executable} -m ziglang cc -nostdlib -target aarch64-linux-gnu")
    return found


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    with rpc_servers.serving("arm", boards=0) as servers:
        servers.start_board(command=arm_board_command())
        yield servers.board(connect_timeout_s=60)


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


def test_boards_of_two_kinds_under_one_key_are_refused(tmp_path: Path) -> None:
    candidates = [c for n in range(4, 8) for c in faulty.candidates(faulty.Plain, of=faulty.workload(n))]
    with rpc_servers.serving("mixed") as servers, ProfileStore(tmp_path / "profile.sqlite") as store:
        servers.start_board(command=arm_board_command())
        with Profiler(sn.host_device(1), store, board=servers.board()) as profiler:
            profiler.look_up(candidates)
            with pytest.raises(BoardError, match=r"is of the kind aarch64, .* is for x86_64: .* must be alike"):
                profiler.measure(candidates)
        assert all(row.measurement.ok for row in store.rows())


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
        times = there.time_steps(there.tensors([], sample_inputs(model.graph)), 2)
        assert {choice.layer for choice in plan.layers} - {"flatten"} <= {each.step.name for each in times}
        assert all(each.seconds > 0 for each in times)
