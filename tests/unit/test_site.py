"""What becomes of a network's session that ends early, or does not begin; with a made-up fork server."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softneuro_tvm.device import Device
from softneuro_tvm.errors import BoardError, SessionLostError
from softneuro_tvm.profiler.messages import Outcome
from softneuro_tvm.remote import site as module
from softneuro_tvm.remote.board import Board
from softneuro_tvm.remote.messages import Connected, NetworkResult
from softneuro_tvm.remote.site import Site

BOARD = Board(server=("a", 1), patience_s=0.3)
CONNECTED = Connected("a:1", {}, 2)
DONE = NetworkResult("a:1", ["{}"], [[np.zeros(1)]], [(1e-3,)], [])
LOST = ("error", "SessionLostError: the board at a:1 failed to run the network: Connection reset by peer")
KILLED = ("crash", "was ended by SIGKILL")
CRASHED = ("error", "BoardError: the board at a:1 failed to run the network: killed by signal 11")
SILENT = ("error", "BoardError: nobody there")
STUCK = ("timeout", "did not finish within 90 s")


class Workers:
    """Plays tasks: each takes the next ending, and ends well if there is none left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endings: deque[tuple[Any, str]] = deque()
        self.outcomes: deque[Outcome] = deque()
        self.tasks = 0

    def submit(self, function: str, arguments: tuple[Any, ...], timeout_s: float) -> int:
        self.tasks += 1
        status, message = self.endings.popleft() if self.endings else ("ok", "")
        if message != SILENT[1]:
            self.outcomes.append(Outcome(self.tasks, "part", pickle.dumps(CONNECTED)))
        if status == "ok":
            result = DONE if function == "run_networks" else None
            self.outcomes.append(Outcome(self.tasks, "ok", pickle.dumps(result)))
        else:
            self.outcomes.append(Outcome(self.tasks, status, None, message))
        return self.tasks

    def outcome(self) -> Outcome:
        return self.outcomes.popleft()

    def close(self) -> None:
        self.tasks = -1


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Workers]:
    made = Workers(tmp_path)
    monkeypatch.setattr(module, "Workers", lambda: made)
    monkeypatch.setattr(module, "_PAUSE_S", 0.01)
    yield made


@pytest.mark.parametrize("ending", [LOST, KILLED, SILENT])
def test_a_session_that_is_lost_is_repeated(workers: Workers, ending: tuple[Any, str]) -> None:
    with Site(BOARD) as site:
        workers.endings.extend([ending] * 3)
        assert site.run([Path("n.so")], ()).samples_s == [(1e-3,)]
        assert workers.tasks == 1 + 3 + 1


@pytest.mark.parametrize("ending", [CRASHED, STUCK])
def test_what_a_network_does_itself_is_not_repeated(workers: Workers, ending: tuple[Any, str]) -> None:
    with Site(BOARD) as site:
        workers.endings.append(ending)
        with pytest.raises(BoardError, match=r"signal 11|did not finish"):
            site.run([Path("n.so")], ())
        assert workers.tasks == 2


def test_a_network_under_which_boards_always_go_away_is_given_up(workers: Workers) -> None:
    with Site(BOARD) as site:
        workers.endings.extend([LOST] * 100)
        with pytest.raises(SessionLostError, match=r"^the board at a:1 failed"):
            site.run([Path("n.so")], ())
        assert 3 <= workers.tasks < 10


def test_a_board_that_stays_away_ends_it(workers: Workers) -> None:
    with Site(BOARD) as site:
        workers.endings.extend([SILENT] * 10_000)
        with pytest.raises(BoardError, match=r"^nobody there$"):
            site.run([Path("n.so")], ())
        assert workers.tasks > 2


def test_the_first_contact_is_not_waited_for_unless_the_board_is_known(workers: Workers) -> None:
    workers.endings.append(SILENT)
    with pytest.raises(BoardError, match=r"^nobody there$"):
        Site(BOARD)
    assert workers.tasks == -1, "the fork server must be closed"
    workers.tasks = 0
    workers.endings.append(SILENT)
    with Site(BOARD, known=True) as site:
        assert workers.tasks == 2 and site.name == "a:1"


def test_a_board_with_too_few_threads_is_refused_before_anything_is_compiled(workers: Workers) -> None:
    device = Device("arm", {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}, "A76", threads=4)
    with Site(BOARD) as site, pytest.raises(BoardError, match=r"uses 2 thread\(s\), 4 were asked for.*--threads 2"):
        site.device(device)
