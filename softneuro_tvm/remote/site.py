"""A board that was reached, for the time of one run of tuning: what it is, and whole networks on it."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.errors import BoardError, SessionLostError
from softneuro_tvm.profiler.sentinel import sentinel_arguments
from softneuro_tvm.profiler.workers import Workers
from softneuro_tvm.remote.board import Board
from softneuro_tvm.remote.facts import board_fingerprint, check_threads, device_on
from softneuro_tvm.remote.messages import Connected, Examined, NetworkRequest, NetworkResult

if TYPE_CHECKING:
    from softneuro_tvm.runtime import Module

_COMPILE_S = 120.0
_LOSSES = 6
"""Sessions that may be lost before a network is given up."""
_PAUSE_S = 1.0

logger = logging.getLogger(__name__)


class Site:
    """A board that has answered; use as a context manager.

    Sessions that are lost are repeated, and a board that has answered once is waited for, `Board.patience_s` each time.

    Args:
        board: Where.
        known: Whether it has answered before this was made.

    Attributes:
        workers: A fork server: its children hold the sessions, and can be ended.
        name: Address of the board that answered.
        facts: What it says about itself.
        threads: Of its server's thread pool.

    Raises:
        BoardError: no board answers.
        BuildError: no folder for scratch files.
    """

    def __init__(self, board: Board, known: bool = False) -> None:
        self.board, self.workers, self._known = board, Workers(), known
        try:
            (answer,) = self._lasting("probe", (board,), 2 * board.connect_timeout_s)
            assert isinstance(answer, Connected)
        except BaseException:
            self.workers.close()
            raise
        self.name, self.facts, self.threads, self._known = answer.name, answer.facts, answer.threads, True

    def device(self, wanted: Device) -> Device:
        """The device as this board says it is.

        Raises:
            BoardError: the board cannot run code for it, or has fewer threads.
        """
        check_threads(self.name, self.threads, wanted.threads)
        return device_on(self.board, wanted, self.facts)

    def fingerprint(self, device: Device) -> dict[str, Any]:
        """What stands for the board in the profile store.

        Args:
            device: From `device`, with the threads that are tuned for.
        """
        return board_fingerprint(device, self.facts)

    def time_networks(self, modules: Sequence[Module], inputs: Mapping[str, np.ndarray]) -> list[tuple[float, ...]]:
        """Times networks on the board in turns.

        Args:
            modules: Built for it.
            inputs: Arrays by input name.

        Returns:
            Seconds of single runs, for each module.

        Raises:
            BoardError: the session failed.
        """
        paths = [self.workers.folder / f"network{index}.so" for index in range(len(modules))]
        try:
            for module, path in zip(modules, paths, strict=True):
                module.export(path)
            ordered = [inputs[port["name"]] for port in modules[0].manifest["inputs"]]
            return self.run(paths, ordered, rounds=ROUNDS).samples_s
        finally:
            for path in paths:
                path.unlink(missing_ok=True)

    def run(
        self,
        libraries: Sequence[Path],
        inputs: Sequence[np.ndarray],
        *,
        rounds: int = 0,
        repeat: int = 0,
        number: int = 1,
        profiled: int = 0,
    ) -> NetworkResult:
        """Runs networks on the board, and times them in turns.

        Args:
            libraries: What to run.
            inputs: For all of them, in order; none to learn only what the networks are.
            rounds: Turns of each.
            repeat: Samples of each turn; as many as fit into a fraction of a second if 0.
            number: Runs that a sample averages.
            profiled: Further runs in which kernel calls are timed.

        Raises:
            BoardError: the session failed.
        """
        request = NetworkRequest(self.board, tuple(map(str, libraries)), rounds, repeat, number, profiled)
        with open(self.workers.folder / "inputs.pickle", "wb") as stream:
            pickle.dump(list(inputs), stream)
        arguments = (request, stream.name)
        result = self._lasting("run_networks", arguments, self.board.session_timeout_s)[-1]
        assert isinstance(result, NetworkResult)
        return result

    def examine(self, device: Device | None) -> Examined:
        """Tries out what measuring depends on.

        Args:
            device: What to compile the reference kernel for; it does not run if None.

        Raises:
            BoardError: the session failed.
        """
        tools = str(self.workers.folder / "tools.so")
        machine, operands = "", tuple[np.ndarray, ...]()
        if device is not None:
            plain = replace(device, target=dict(device.target))
            list(self._parts("compile_sentinel", (plain, tools, True), _COMPILE_S))
            machine, operands = device.machine, sentinel_arguments(device)
        asked = (self.board, machine, tools, operands)
        (found,) = list(self._parts("examine", asked, 2 * self.board.connect_timeout_s))
        assert isinstance(found, Examined)
        return found

    def _lasting(self, function: str, arguments: tuple[Any, ...], timeout_s: float) -> list[Any]:
        """All results of a task, which is begun again where its session was lost, or no board was there for a moment.

        Raises:
            BoardError: it failed.
        """
        silent_since_s, losses = time.monotonic(), 0
        while True:
            parts: list[Any] = []
            try:
                for part in self._parts(function, arguments, timeout_s):
                    parts.append(part)
                return parts
            except BoardError as error:
                if parts:
                    losses, silent_since_s = losses + 1, time.monotonic()
                    again = isinstance(error, SessionLostError) and losses < _LOSSES
                else:
                    again = self._known and time.monotonic() - silent_since_s < self.board.patience_s
                if not again:
                    raise
                logger.info("a session for %s is begun again: %s", function, error)
                time.sleep(_PAUSE_S)

    def _parts(self, function: str, arguments: tuple[Any, ...], timeout_s: float) -> Iterator[Any]:
        """Results of a task, partial ones first.

        Raises:
            SessionLostError: the session was lost.
            BoardError: it failed.
        """
        number = self.workers.submit(function, arguments, timeout_s)
        while True:
            outcome = self.workers.outcome()
            if outcome.number != number:
                continue  # an interrupted call may have left it behind
            if outcome.value is not None and (found := pickle.loads(outcome.value)) is not None:
                yield found
            if outcome.status == "ok":
                return
            if outcome.status != "part":
                kind, _, said = outcome.message.partition(": ")
                if kind == BoardError.__name__:
                    raise BoardError(said)
                if kind == SessionLostError.__name__:
                    raise SessionLostError(said)
                message = f"the session with {self.board.place} {outcome.message}"
                raise SessionLostError(message) if outcome.status == "crash" else BoardError(message)

    def close(self) -> None:
        """Ends all sessions."""
        self.workers.close()

    def __enter__(self) -> Site:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


ROUNDS = 8
"""Turns of each network when several are compared."""
