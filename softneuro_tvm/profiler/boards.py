"""The profiler's side of boards: which child measures what where, and what to do when sessions end early.

Each session is held by a child of the fork server; there are as many children as there are boards. A session that ends
early puts the candidate under suspicion that was being measured. It is measured once more, by itself and on another
board if there is one. If it has ended sessions by what it did (`_ATTEMPTS`), it is given up, but only once a board has
answered again, because then it was not the board that failed. A session that ended because the board went away, or the
child here, tells little about the candidate, so many of those (`_LOSSES`) must end under it.
"""

from __future__ import annotations

import logging
import math
import pickle
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from softneuro_tvm.device import Device
from softneuro_tvm.errors import BoardError, BoardsLostError, ProfileError
from softneuro_tvm.measurement import Measurement, Status
from softneuro_tvm.profiler.messages import (
    Measured,
    MeasuredThere,
    MeasureRequest,
    Outcome,
    SessionLost,
    SessionRequest,
)
from softneuro_tvm.profiler.sentinel import MachineSpeed
from softneuro_tvm.profiler.timing import TimingOptions
from softneuro_tvm.profiler.workers import TaskServer
from softneuro_tvm.remote.board import Board
from softneuro_tvm.remote.facts import board_fingerprint
from softneuro_tvm.remote.messages import Connected
from softneuro_tvm.remote.tracker import summary

SESSION_CANDIDATES = 16
"""Candidates that one session measures, at most, and that one library holds."""
_ATTEMPTS = 2
"""Sessions that a candidate may end by what it does."""
_LOSSES = 6
"""Sessions that may end under a candidate for any reason: it might be what makes a board restart."""
_PAUSE_S = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What became of a candidate.

    Args:
        number: Identifies it.
        measured: The result.
        board: Address of the board; empty if none measured it.
    """

    number: int
    measured: Measured
    board: str


@dataclass(frozen=True)
class _Failure:
    """The end of a session under a candidate: on which board, what happened, and whether that was its own doing."""

    board: str
    status: Status
    message: str
    own: bool


@dataclass(eq=False)
class _Item:
    """A candidate that waits, and how it failed before."""

    number: int
    request: MeasureRequest
    failures: list[_Failure] = field(default_factory=list)

    @property
    def hopeless(self) -> bool:
        """Whether it need not be tried again."""
        return sum(failure.own for failure in self.failures) >= _ATTEMPTS or len(self.failures) >= _LOSSES

    @property
    def verdict(self) -> Result:
        """What is recorded if it is given up."""
        told = ", then ".join(f"{failure.message} (on {failure.board})" for failure in self.failures)
        last = next((each for each in reversed(self.failures) if each.own), self.failures[-1])
        return Result(self.number, Measured(Measurement(last.status, message=told)), self.failures[-1].board)


@dataclass(eq=False)
class _Child:
    """A running session: what it is still to measure, and on which board it is once it is connected."""

    items: deque[_Item]
    board: str = ""
    lost: SessionLost | None = None


class Boards:
    """All boards that measure for one run of tuning.

    Args:
        board: Where they are.
        device: What code is generated for; as the first of them says it is.
        workers: The fork server.
        options: How long to time.

    Attributes:
        speeds: How fast each board was.
        fingerprints: Of the boards that have answered.
    """

    def __init__(self, board: Board, device: Device, workers: TaskServer, options: TimingOptions) -> None:
        self.board, self.device, self.workers, self.options = board, device, workers, options
        self.speeds: dict[str, MachineSpeed] = {}
        self.fingerprints: dict[str, Mapping[str, Any]] = {}
        self._queue: deque[_Item] = deque()
        self._running: dict[int, _Child] = {}
        self._given_up: list[_Item] = []
        self._silent_since_s: float | None = None
        self._tools, self._deadline_s, self._count = "", math.inf, 1

    def measure(self, requests: Sequence[MeasureRequest], tools: str, deadline_s: float) -> Iterator[Result]:
        """Measures candidates on all boards side by side.

        Args:
            requests: Candidates; those of one workload together. Their positions are the numbers of the results.
            tools: Path of the library with the reference kernel.
            deadline_s: By `time.monotonic`; no candidate is begun afterwards.

        Yields:
            Results as they arrive, in any order.

        Raises:
            BoardsLostError: no board has answered for too long.
            ProfileError: measuring cannot go on.
        """
        self._queue = deque(_Item(number, request) for number, request in enumerate(requests))
        self._running.clear()
        self._tools, self._deadline_s, self._count = tools, deadline_s, self._counted()
        while self._queue or self._running or self._given_up:
            if time.monotonic() > deadline_s:
                self._queue.clear()
            while self._queue and len(self._running) < self._count:
                self._start(self._next())
            if not self._running:
                if not self._given_up:
                    return
                self._start(deque())  # answers if the board is well
            yield from self._handle(self.workers.outcome())

    def _counted(self) -> int:
        """Boards that there are."""
        if self.board.tracker is None:
            return 1
        try:
            return max(1, len(summary(self.board.tracker, self.board.connect_timeout_s).servers(self.board.key)))
        except BoardError:
            return 1  # the child that tries to connect reports it

    def _next(self) -> deque[_Item]:
        """What the next session measures: a candidate that failed before by itself, or a share of the others."""
        share = min(SESSION_CANDIDATES, -(-len(self._queue) // self._count))
        items = deque([self._queue.popleft()])
        while not items[0].failures and self._queue and len(items) < share and not self._queue[0].failures:
            items.append(self._queue.popleft())
        return items

    def _start(self, items: deque[_Item]) -> None:
        request = SessionRequest(
            self.board,
            self.device.threads,
            self.device.machine,
            tuple((item.number, item.request) for item in items),
            self._tools,
            self.speeds,
            frozenset(failure.board for item in items for failure in item.failures),
            self._deadline_s,
        )
        limit_s = 2 * self.board.connect_timeout_s  # for the connection; the child says what follows
        self._running[self.workers.submit("measure_on_board", (request,), limit_s)] = _Child(items)

    def _handle(self, outcome: Outcome) -> Iterator[Result]:
        child = self._running.get(outcome.number)
        if child is None:
            return  # an interrupted call may have left it behind
        if outcome.status == "environment":
            raise ProfileError(f"measuring cannot go on: {outcome.message}; what was measured is kept")
        if outcome.status == "part":
            assert outcome.value is not None
            yield from self._part(child, pickle.loads(outcome.value))
            return
        del self._running[outcome.number]
        yield from self._ended(child, outcome)

    def _part(self, child: _Child, part: Any) -> Iterator[Result]:
        if isinstance(part, Connected):
            child.board, self._silent_since_s = part.name, None
            if part.name not in self.fingerprints:
                if (said := part.facts.get("part", self.device.part)) != self.device.part:
                    raise ProfileError(
                        f"the boards of {self.board.place} are not alike: {part.name} is {said}, another one is "
                        f"{self.device.part}; give them keys of their own"
                    )
                self.fingerprints[part.name] = board_fingerprint(self.device, part.facts)
            for item in self._given_up:
                logger.info("a candidate is given up: %s", item.verdict.measured.measurement.message)
                yield item.verdict
            self._given_up.clear()
        elif isinstance(part, MeasuredThere):
            item = child.items.popleft()
            assert item.number == part.number
            if part.measured.sentinel_s:
                speed = self.speeds.setdefault(child.board, MachineSpeed())
                speed.seconds.append(part.measured.sentinel_s)
                speed.lost_s += part.measured.lost_s
            yield Result(part.number, part.measured, child.board)
        elif isinstance(part, SessionLost):
            child.lost = part

    def _ended(self, child: _Child, outcome: Outcome) -> Iterator[Result]:
        """Puts back what a session has not measured.

        Raises:
            BoardError: the board cannot be used as it is.
        """
        self._count = self._counted()
        if child.board and outcome.status == "error" and outcome.message.startswith(BoardError.__name__):
            raise BoardError(outcome.message.removeprefix(f"{BoardError.__name__}: "))
        if child.board and child.items and (child.lost or outcome.status != "ok"):
            yield from self._suspect(child.items.popleft(), child, outcome)
        elif not child.board:
            self._unreachable(outcome)
        self._queue.extendleft(reversed(child.items))

    def _suspect(self, item: _Item, child: _Child, outcome: Outcome) -> Iterator[Result]:
        """Notes a failure of a candidate in whose time a session ended."""
        if child.lost:
            status: Status = "timeout" if child.lost.cause == "time" else "crash"
            own, message = child.lost.cause != "board", f"the session ended: {child.lost.message}"
        elif outcome.status == "error":
            # nothing of the board: what was to be measured cannot be sent or understood
            yield Result(item.number, Measured(Measurement("error", message=outcome.message)), child.board)
            return
        else:
            # kernels do not run in the child, so its end tells nothing of them; that one does not return is its doing
            status = "timeout" if outcome.status == "timeout" else "crash"
            own, message = status == "timeout", outcome.message
        item.failures.append(_Failure(child.board, status, message, own))
        logger.info("a session with %s ended early, by %s: %s", child.board, "its kernel" if own else "else", message)
        if item.hopeless:
            self._given_up.append(item)
        else:
            self._queue.append(item)

    def _unreachable(self, outcome: Outcome) -> None:
        """Waits a moment after a session that did not begin.

        Raises:
            BoardsLostError: that has gone on for too long.
        """
        logger.info("no session: %s", outcome.message)
        now_s = time.monotonic()
        self._silent_since_s = self._silent_since_s or now_s
        if now_s - self._silent_since_s > self.board.patience_s:
            raise BoardsLostError(
                f"no board of {self.board.place} has answered for {now_s - self._silent_since_s:.0f} s, the last "
                f"attempt: {outcome.message}; what was measured is kept, and the same command goes on from there"
            )
        time.sleep(min(_PAUSE_S, self.board.patience_s / 10))
