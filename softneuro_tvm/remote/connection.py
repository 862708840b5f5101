"""A session with a board: connects, sends files and arrays once each, ends with the process that holds it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import rpc

from softneuro_tvm.elf_header import damage
from softneuro_tvm.errors import BoardError, BuildError, SoftNeuroError
from softneuro_tvm.remote.board import Board
from softneuro_tvm.remote.facts import SYSTEM_INFO, check_threads
from softneuro_tvm.remote.tracker import request, summary


class BoardSession:
    """A session. Calls do not return if the board vanishes: hold it in a process that can be ended.

    Args:
        board: Where.
        avoid: Addresses of boards of which another one is preferred.

    Attributes:
        name: Address of the board.
        rpc: TVM's session.
        cpu: The board's processor as a TVM device.
        threads: Of the board's thread pool.
        facts: What the board says about itself.

    Raises:
        BoardError: no connection.
    """

    def __init__(self, board: Board, avoid: frozenset[str] = frozenset()) -> None:
        host, port, key = _address(board, avoid)
        self.name = f"{host}:{port}"
        self._ends_s = time.monotonic() + board.session_timeout_s
        try:
            self.rpc = rpc.connect(host, port, key, session_timeout=board.session_timeout_s)
            self.cpu = self.rpc.cpu()
            # starts the board's thread pool, before a library can tell it to be small
            self.threads = int(self.rpc.get_function("runtime.NumThreads")())
            self.facts = self._asked()
        except Exception as error:  # TVM raises many types
            raise BoardError(f"the board at {self.name} does not answer: {last_line(error)}") from error
        self._modules: dict[str, Any] = {}
        self._tensors: dict[str, Any] = {}
        self._pool: Any = None

    @property
    def left_s(self) -> float:
        """Seconds until the board ends the session."""
        return self._ends_s - time.monotonic()

    @property
    def alive(self) -> bool:
        """Whether the board still answers."""
        with suppress(Exception):  # TVM raises many types
            self.rpc.get_function("runtime.NumThreads")()
            return True
        return False

    def library(self, path: str, machine: str) -> Any:
        """A library as a module on the board; sent when it is asked for first.

        Raises:
            BoardError: it is for a processor of another kind than this board's.
            BuildError: it is not for the processor that it should be for, or was cut off.
        """
        if path not in self._modules:
            if (kind := self.facts.get("machine", machine)) != machine:
                raise BoardError(
                    f"the board at {self.name} is of the kind {kind}, {Path(path).name} is for {machine}: choose "
                    "another --rpc-key or --target; boards of one key must be alike"
                )
            if problem := damage(path, machine):
                raise BuildError(f"{problem}; it was not sent to the board")
            name = f"{len(self._modules)}-{Path(path).name}"
            self.rpc.upload(path, name)
            self._modules[path] = self.rpc.load_module(name)
            self.rpc.remove(name)
        return self._modules[path]

    def tensor(self, path: str) -> Any:
        """An array of a file as a tensor on the board; sent when it is asked for first."""
        if path not in self._tensors:
            self._tensors[path] = self.send(np.load(path, mmap_mode="r"))
        return self._tensors[path]

    def forget_tensors(self) -> None:
        """Gives the memory of all arrays of files back."""
        self._tensors.clear()

    def send(self, array: np.ndarray) -> Any:
        """An array as a tensor on the board."""
        return tvm.runtime.tensor(np.asarray(array, order="C"), self.cpu)

    def pool(self, size_bytes: int) -> Any:
        """Memory on the board, the same each time unless it is too small."""
        if self._pool is None or self._pool.shape[0] < size_bytes:
            self._pool = None
            self._pool = tvm.runtime.empty((size_bytes,), "uint8", self.cpu)
        return self._pool

    def _asked(self) -> Mapping[str, Any]:
        """What the board says about itself; nothing if its server is TVM's own."""
        try:
            ask = self.rpc.get_function(SYSTEM_INFO)
        except AttributeError:
            return {}
        found = json.loads(str(ask()))
        return found if isinstance(found, dict) else {}

    def use_threads(self, threads: int) -> None:
        """Lets kernels use so many threads.

        Raises:
            BoardError: the server has fewer.
        """
        check_threads(self.name, self.threads, threads)
        self.rpc.get_function("runtime.config_threadpool")(1, threads)


def _address(board: Board, avoid: frozenset[str]) -> tuple[str, int, str]:
    """Host, port and key of a free board; another one than those to avoid, if there is any.

    Raises:
        BoardError: none.
    """
    if board.server is not None:
        return *board.server, board.key
    assert board.tracker is not None
    known = summary(board.tracker, board.connect_timeout_s)
    names = {f"{host}:{port}" for host, port in known.servers(board.key)}
    if not names:
        raise BoardError(
            f"the tracker at {board.tracker[0]}:{board.tracker[1]} knows no board with the key {board.key!r}, only "
            f"{', '.join(known.keys) or 'none at all'}; start the board's server, or name another key with --rpc-key"
        )
    found = request(board.tracker, board.key, board.connect_timeout_s)
    if f"{found[0]}:{found[1]}" in avoid and names - avoid:
        # the board that was not taken offers itself again after some seconds
        found = request(board.tracker, board.key, board.connect_timeout_s)
    return found


def last_line(error: BaseException) -> str:
    """The end of an error's message, where TVM says what happened."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def is_ours(error: BaseException) -> bool:
    """Whether an error is this machine's, e.g. a file that cannot be read; TVM's time-outs are `OSError`, too."""
    return isinstance(error, SoftNeuroError) or (isinstance(error, OSError) and error.errno is not None)
