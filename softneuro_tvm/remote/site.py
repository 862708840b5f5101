"""A board that was reached, for the time of one run of tuning: what it is, and whole networks on it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.errors import BoardError
from softneuro_tvm.profiler.workers import Workers
from softneuro_tvm.remote.board import Board
from softneuro_tvm.remote.facts import board_fingerprint, device_on
from softneuro_tvm.remote.messages import Connected, Examined, NetworkRequest, NetworkResult

if TYPE_CHECKING:
    from softneuro_tvm.runtime import Module


_COMPILE_S = 120.0


class Site:
    """A board that has answered; use as a context manager.

    Args:
        board: Where.

    Attributes:
        workers: A fork server: its children hold the sessions, and can be ended.
        name: Address of the board that answered.
        facts: What it says about itself.

    Raises:
        BoardError: no board answers.
        BuildError: no folder for scratch files.
    """

    def __init__(self, board: Board) -> None:
        self.board, self.workers = board, Workers()
        try:
            found = self._parts("probe", (board,), 2 * board.connect_timeout_s)
            (answer,) = list(found)
            assert isinstance(answer, Connected)
        except BaseException:
            self.workers.close()
            raise
        self.name, self.facts = answer.name, answer.facts

    def device(self, wanted: Device) -> Device:
        """The device as this board says it is.

        Raises:
            BoardError: the board cannot run code for it.
        """
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
    ) -> NetworkResult:
        """Runs networks on the board, and times them in turns.

        Args:
            libraries: What to run.
            inputs: For all of them, in order; none to learn only what the networks are.
            rounds: Turns of each.
            repeat: Samples of each turn; as many as fit into a fraction of a second if 0.
            number: Runs that a sample averages.

        Raises:
            BoardError: the session failed.
        """
        request = NetworkRequest(self.board, tuple(map(str, libraries)), rounds, repeat, number)
        with open(self.workers.folder / "inputs.pickle", "wb") as stream:
            pickle.dump(list(inputs), stream)
        arguments = (request, stream.name)
        parts = list(self._parts("run_networks", arguments, self.board.session_timeout_s))
        result = parts[-1]
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
        if device is not None:
            plain = replace(device, target=dict(device.target))
            list(self._parts("compile_sentinel", (plain, tools, True), _COMPILE_S))
            device = plain
        (found,) = list(self._parts("examine", (self.board, device, tools), 2 * self.board.connect_timeout_s))
        assert isinstance(found, Examined)
        return found

    def _parts(self, function: str, arguments: tuple[Any, ...], timeout_s: float) -> Iterator[Any]:
        """Results of a task, partial ones first.

        Raises:
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
                message = outcome.message.removeprefix("BoardError: ")
                raise BoardError(
                    message if message != outcome.message else f"the session with {self.board.place} {message}"
                )

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
