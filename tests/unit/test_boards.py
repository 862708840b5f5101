"""Which session measures what, and what happens when sessions end early; with a made-up fork server."""

from __future__ import annotations

import math
import pickle
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest

from softneuro_tvm.device import Device
from softneuro_tvm.errors import BoardError, BoardsLostError, ProfileError
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler import boards as module
from softneuro_tvm.profiler.boards import SESSION_CANDIDATES, Boards, Result
from softneuro_tvm.profiler.messages import (
    Compiled,
    Measured,
    MeasuredThere,
    MeasureRequest,
    Outcome,
    SessionLost,
    SessionRequest,
)
from softneuro_tvm.profiler.sentinel import Sentinel
from softneuro_tvm.profiler.timing import TimingOptions
from softneuro_tvm.remote.board import Board
from softneuro_tvm.remote.loss import cause_of_loss
from softneuro_tvm.remote.messages import Connected
from softneuro_tvm.remote.tracker import Summary

DEVICE = Device("arm", {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}, "A76")
GOOD = Measured(Measurement("ok", (1e-3,), 0.0, board="x"), 2e-5)
TRACKED = Board(("tracker", 9190), "k", patience_s=0.4)


def request(library: str = "lib0.so") -> MeasureRequest:
    sentinel = Sentinel("s.so", DEVICE)
    return MeasureRequest(Compiled("kernel", library), (), (), (), 1, 1, math.inf, TimingOptions(), sentinel)


class Workers:
    """Plays sessions: each board is free or not, and some candidates end their session.

    Args:
        names: The boards; sessions take them in turns, avoided ones only if there is no other.
        fatal: Numbers of candidates that end each session, and how.
        away: So often the board goes away while a candidate is measured, by its number.
        silent: So many sessions find no board at first.
        only_part: Results of a session, at most.
    """

    def __init__(
        self,
        names: Sequence[str] = ("a", "b"),
        fatal: dict[int, str] | None = None,
        silent: int = 0,
        only_part: int = 99,
        facts: dict[str, Any] | None = None,
        away: dict[int, int] | None = None,
    ) -> None:
        self.names, self.fatal, self.silent, self.only_part, self.facts = (
            names,
            fatal or {},
            silent,
            only_part,
            facts or {},
        )
        self.away = away or {}
        self.sessions: list[tuple[str, list[int]]] = []
        self.outcomes: deque[Outcome] = deque()
        self.submitted = self.most_at_once = self.running = 0

    def submit(self, function: str, arguments: tuple[Any, ...], timeout_s: float) -> int:
        assert function == "measure_on_board" and timeout_s < 1000
        (asked,) = arguments
        assert isinstance(asked, SessionRequest)
        self.submitted += 1
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        self._play(self.submitted, asked)
        return self.submitted

    def _play(self, number: int, asked: SessionRequest) -> None:
        def part(value: Any) -> None:
            self.outcomes.append(Outcome(number, "part", pickle.dumps(value)))

        if self.silent:
            self.silent -= 1
            self.outcomes.append(Outcome(number, "error", None, "BoardError: nobody there"))
            return
        free = [name for name in self.names if name not in asked.avoid] or list(self.names)
        board = free[number % len(free)]
        self.sessions.append((board, [n for n, _ in asked.requests]))
        part(Connected(board, self.facts.get(board, {}), 2))
        for n, _ in asked.requests[: self.only_part]:
            if self.away.get(n):
                self.away[n] -= 1
                part(SessionLost(n, "board", "Connection reset by peer"))
                break
            match self.fatal.get(n):
                case None:
                    part(MeasuredThere(n, GOOD))
                case "crash":
                    part(SessionLost(n, "kernel", "killed by signal 11"))
                    break
                case "limit":
                    part(SessionLost(n, "time", "the session's 60 s have expired"))
                    break
                case "hang":
                    self.outcomes.append(Outcome(number, "timeout", None, "did not finish within 20 s"))
                    return
        self.outcomes.append(Outcome(number, "ok", pickle.dumps(None)))

    def outcome(self) -> Outcome:
        found = self.outcomes.popleft()
        self.running -= found.status != "part"
        return found


def run(workers: Workers, count: int, board: Board = TRACKED) -> tuple[dict[int, Result], Boards]:
    boards = Boards(board, DEVICE, workers, TimingOptions())  # type: ignore[arg-type]
    results: dict[int, Result] = {}
    for result in boards.measure([request() for _ in range(count)], "tools.so", math.inf):
        assert result.number not in results, "reported twice"
        results[result.number] = result
    return results, boards


@pytest.fixture(autouse=True)
def tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = [{"key": "server:k", "addr": [name, 1]} for name in "ab"]
    monkeypatch.setattr(module, "summary", lambda *_: Summary({"server_info": servers, "queue_info": {}}))


def test_all_boards_share_the_work() -> None:
    workers = Workers()
    results, boards = run(workers, 40)
    assert sorted(results) == list(range(40)) and all(r.measured.measurement.ok for r in results.values())
    assert workers.most_at_once == 2 and {name for name, _ in workers.sessions} == {"a", "b"}
    assert max(len(numbers) for _, numbers in workers.sessions) <= SESSION_CANDIDATES
    assert {name: len(speed.seconds) for name, speed in boards.speeds.items()} == {
        name: sum(len(numbers) for n, numbers in workers.sessions if n == name) for name in "ab"
    }


@pytest.mark.parametrize(("how", "status"), [("crash", "crash"), ("limit", "timeout"), ("hang", "timeout")])
def test_a_candidate_that_ends_sessions_is_tried_on_two_boards_and_blamed_alone(how: str, status: str) -> None:
    workers = Workers(fatal={3: how})
    results, _ = run(workers, 10)
    assert sorted(results) == list(range(10))
    assert [n for n, r in results.items() if not r.measured.measurement.ok] == [3]
    found = results[3].measured.measurement
    assert found.status == status and "(on a)" in found.message and "(on b)" in found.message
    tried = [(name, numbers) for name, numbers in workers.sessions if 3 in numbers]
    assert len(tried) == 2 and tried[1][1] == [3] and tried[0][0] != tried[1][0]


def test_a_candidate_is_not_blamed_for_boards_that_go_away() -> None:
    workers = Workers(away={3: 4, 5: 1}, fatal={7: "crash"})
    results, _ = run(workers, 10)
    assert [n for n, r in results.items() if not r.measured.measurement.ok] == [7]
    assert sum(3 in numbers for _, numbers in workers.sessions) == 5


def test_a_candidate_under_which_boards_always_go_away_is_given_up() -> None:
    workers = Workers(away={3: 1000})
    results, _ = run(workers, 10)
    assert [n for n, r in results.items() if not r.measured.measurement.ok] == [3]
    found = results[3].measured.measurement
    assert found.status == "crash" and found.message.count("Connection reset") == 1000 - workers.away[3] == 6


def test_what_a_candidate_does_itself_is_its_status() -> None:
    workers = Workers(away={3: 1}, fatal={3: "limit"})
    results, _ = run(workers, 4)
    found = results[3].measured.measurement
    assert found.status == "timeout" and "Connection reset" in found.message and found.message.count("expired") == 2


def test_a_child_that_is_killed_here_says_nothing_of_its_candidate() -> None:
    workers = Workers()
    play, killed = workers._play, [3]

    def interrupted(number: int, asked: SessionRequest) -> None:
        play(number, asked)
        if any(n in killed for n, _ in asked.requests) and len(killed) < 5:
            killed.append(3)
            done = [outcome for outcome in workers.outcomes if outcome.number == number]
            for outcome in done[1:]:
                workers.outcomes.remove(outcome)
            workers.outcomes.append(Outcome(number, "crash", None, "was ended by SIGKILL"))

    workers._play = interrupted  # type: ignore[method-assign]
    results, _ = run(workers, 4)
    assert len(results) == 4 and all(r.measured.measurement.ok for r in results.values())


@pytest.mark.parametrize(
    ("message", "tells", "cause"),
    [
        ("the process that served this session was killed by signal 11 (Segmentation fault)", True, "kernel"),
        ("the process that served this session was killed by signal 9 (Killed)", True, "board"),
        ("the process that served this session was killed by signal 15 (Terminated)", True, "board"),
        ("the process that served this session ended with exit code 3", True, "kernel"),
        ("RPCSessionTimeoutError: the session's 60 s have expired", True, "time"),
        ("the server is being stopped", True, "board"),
        ("Socket SockChannel::Recv Error:Connection reset by peer", True, "board"),
        ("Socket SockChannel::Recv Error:Connection reset by peer", False, "kernel"),
    ],
)
def test_what_ended_a_session(message: str, tells: bool, cause: str) -> None:
    assert cause_of_loss(f"a trace\n{message}", tells) == cause


def test_with_one_board_a_candidate_is_tried_twice_there() -> None:
    workers = Workers(names=("a",), fatal={0: "crash"})
    results, _ = run(workers, 2, Board(server=("a", 1)))
    assert results[1].measured.measurement.ok
    assert results[0].measured.measurement.message.count("(on a)") == 2


def test_a_candidate_is_blamed_only_if_a_board_answers_afterwards() -> None:
    workers = Workers(names=("a",), fatal={0: "crash"})
    play, workers._play = workers._play, lambda number, asked: _then_silent(number, asked)  # type: ignore[method-assign]

    def _then_silent(number: int, asked: SessionRequest) -> None:
        workers.silent = 1000 if number > 2 else 0
        play(number, asked)

    boards = Boards(Board(server=("a", 1), patience_s=0.3), DEVICE, workers, TimingOptions())  # type: ignore[arg-type]
    with pytest.raises(BoardsLostError):
        assert not list(boards.measure([request()], "tools.so", math.inf))


def test_what_a_session_has_no_time_for_is_left_to_the_next() -> None:
    workers = Workers(only_part=3)
    results, _ = run(workers, 20)
    assert sorted(results) == list(range(20)) and all(r.measured.measurement.ok for r in results.values())


def test_boards_that_are_away_for_a_moment_are_waited_for() -> None:
    results, _ = run(Workers(silent=2), 3)
    assert len(results) == 3


def test_boards_that_stay_away_end_it() -> None:
    with pytest.raises(BoardsLostError, match=r"no board of k@tracker:9190 has answered .* nobody there; what was"):
        run(Workers(silent=10_000), 3)


def test_boards_of_one_key_must_be_alike() -> None:
    with pytest.raises(ProfileError, match=r"not alike: b is A53, another one is A76"):
        run(Workers(facts={"a": {"part": "A76"}, "b": {"part": "A53"}}), 20)


def test_a_board_with_too_few_threads_ends_it() -> None:
    workers = Workers()

    def play(number: int, asked: SessionRequest) -> None:
        workers.outcomes.append(Outcome(number, "part", pickle.dumps(Connected("a", {}, 1))))
        workers.outcomes.append(Outcome(number, "error", None, "BoardError: its server uses 1 thread(s)"))

    workers._play = play  # type: ignore[method-assign]
    with pytest.raises(BoardError, match=r"^its server uses 1 thread\(s\)"):
        run(workers, 3)


def test_a_full_disk_here_ends_it() -> None:
    workers = Workers()
    workers._play = lambda number, asked: workers.outcomes.append(  # type: ignore[method-assign]
        Outcome(number, "environment", None, "OSError: no space left")
    )
    with pytest.raises(ProfileError, match="no space left; what was measured is kept"):
        run(workers, 3)


def test_nothing_is_begun_after_the_deadline() -> None:
    workers = Workers()
    boards = Boards(TRACKED, DEVICE, workers, TimingOptions())  # type: ignore[arg-type]
    assert list(boards.measure([request()], "tools.so", -math.inf)) == [] and workers.submitted == 0
