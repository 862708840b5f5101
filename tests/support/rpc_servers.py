"""A tracker and boards on this machine, in processes that end with the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from softneuro_tvm.errors import BoardError
from softneuro_tvm.remote import Board
from softneuro_tvm.remote.tracker import Summary, summary

_START_S = 60.0


@dataclass
class Servers:
    """What runs.

    Args:
        tracker_port: Of the tracker.
        key: Of the boards.
        boards: Their processes by port.
        tracker: Its process.
    """

    tracker_port: int
    key: str
    boards: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    tracker: subprocess.Popen[bytes] | None = None

    def start_board(
        self, port: int | None = None, stock: bool = False, command: Sequence[str] = (), key: str = ""
    ) -> int:
        """Starts another board; returns its port once the tracker knows it.

        Args:
            port: Its port, if it matters.
            stock: Takes TVM's own server instead of this package's.
            command: What starts another server, but for its options.
            key: If it differs from that of the others.
        """
        port, key = port or free_port(), key or self.key
        usual = ("-m", "tvm.exec.rpc_server") if stock else ("-m", "softneuro_tvm", "rpc-server")
        self.boards[port] = _start(
            *(command or (sys.executable, *usual)),
            *("--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1), "--key", key),
            *("--tracker", f"127.0.0.1:{self.tracker_port}"),
        )
        _until(lambda: any(address[1] == port for address in self.summary.servers(key)))
        return port

    @property
    def summary(self) -> Summary:
        """What the tracker knows."""
        return summary(("127.0.0.1", self.tracker_port), 5)

    def board(self, **options: Any) -> Board:
        """The boards, with short time limits."""
        limits = {"connect_timeout_s": 20.0, "patience_s": 60.0}
        return Board(("127.0.0.1", self.tracker_port), self.key, **(limits | options))


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(10)


def _until(condition: Callable[[], Any]) -> None:
    deadline_s = time.monotonic() + _START_S
    while True:
        try:
            if condition():
                return
        except BoardError:
            pass
        assert time.monotonic() < deadline_s, "the servers did not start"
        time.sleep(0.1)


@contextmanager
def serving(key: str = "board", boards: int = 1, stock: bool = False) -> Iterator[Servers]:
    """A tracker with boards."""
    port = free_port()
    servers = Servers(port, key)
    try:
        servers.tracker = _start(
            *(sys.executable, "-m", "tvm.exec.rpc_tracker", "--host", "127.0.0.1"),
            *("--port", str(port), "--port-end", str(port + 1)),
        )
        _until(lambda: summary(("127.0.0.1", port), 5))
        for _ in range(boards):
            servers.start_board(stock=stock)
        yield servers
    finally:
        for process in (*servers.boards.values(), *([servers.tracker] if servers.tracker else [])):
            end(process)
