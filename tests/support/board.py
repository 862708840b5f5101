"""RPC servers, trackers and clients for tests; nothing here waits without a limit."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from softneuro_tvm.board.compiling import PROGRAM, build_server, find_compiler, zig_compiler
from softneuro_tvm.board.runtimes import runtime_for

Result = TypeVar("Result")
KERNELS = Path(__file__).with_name("board_kernels.c")
LIMIT_S = 60.0
"""Far beyond what anything here takes, even on a busy machine."""

_fork = multiprocessing.get_context("fork")


class ClientError(Exception):
    """What a client's call raised, as text."""


def wait_until(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    """The first true value of a condition."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {limit_s:g} s in vain for {what}")


def is_running(process: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


class Client:
    """A function that runs in a process of its own, so that it can hang or be killed."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._receiver, sender = _fork.Pipe(duplex=False)
        self.process = _fork.Process(target=self._run, args=(function, sender), daemon=True)
        self.process.start()
        sender.close()

    @staticmethod
    def _run(function: Callable[[], Any], sender: Any) -> None:
        # TVM would look up names for a backtrace with each error
        os.environ.pop("PYTEST_CURRENT_TEST", None)
        try:
            result = True, function()
        except BaseException as error:
            result = False, f"{type(error).__name__}: {error}"
        sender.send(result)

    def result(self, limit_s: float = LIMIT_S) -> Any:
        """What the function returned; raises `ClientError` if it raised."""
        try:
            assert self._receiver.poll(limit_s), f"the client did not end within {limit_s:g} s"
            ok, value = self._receiver.recv()
        finally:
            self.kill()
        if not ok:
            raise ClientError(value)
        return value

    def kill(self) -> None:
        """Ends the process at once."""
        self.process.kill()
        self.process.join(LIMIT_S)
        assert not self.process.is_alive()


def run_client(function: Callable[[], Result]) -> Result:
    """Runs a function in a process of its own and returns its result."""
    result: Result = Client(function).result()
    return result


class Server:
    """A running server, by the command that starts it."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.work_dir = folder / "work"
        self.work_dir.mkdir(parents=True)
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--work-dir", str(self.work_dir)], stderr=log, stdin=subprocess.DEVNULL
            )
        self.port = int(self.wait_for_log(r"listening on \S+:(\d+)")[1])

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text(errors="replace")

    def wait_for_log(self, pattern: str, start: int = 0) -> re.Match[str]:
        """Waits for a line in the log after a position."""

        def find() -> re.Match[str] | None:
            found = re.search(pattern, self.log[start:])
            if found is None and self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}: {self.log}")
            return found

        match: re.Match[str] = wait_until(find, f"{pattern!r} in the log")
        return match

    def hang(self, kernels: Path) -> Client:
        """A client in whose session a kernel hangs by now."""
        client = Client(lambda: call(self.connect(), kernels, "hang"))
        wait_until(lambda: list(self.work_dir.glob("*/hanging")), "a kernel that hangs")
        return client

    def connect(self, key: str = "", session_timeout: float = 0) -> Any:
        """A session of TVM's client; to be called in a client's process."""
        from tvm import rpc

        return rpc.connect("127.0.0.1", self.port, key, session_timeout=session_timeout)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends the server; returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(LIMIT_S)

    def kill(self) -> None:
        """Ends the server at once if it still runs."""
        self.process.kill()
        self.process.wait(LIMIT_S)


@contextmanager
def serving(command: Sequence[str], folder: Path) -> Iterator[Server]:
    """A server that must end well, and leave no files, after what was done with it."""
    running = Server(command, folder)
    try:
        yield running
        assert running.stop() == 0, running.log
        assert not list(running.work_dir.iterdir())
    finally:
        running.kill()


def server_command(kind: str, *options: str) -> list[str]:
    """How a server is started on any free port: `cpp`, `zig` (the same one, compiled by zig) or `python`."""
    command = {
        "cpp": lambda: [str(build_server() / PROGRAM)],
        "zig": lambda: [str(build_server(compiler=zig_compiler()) / PROGRAM)],
        "python": lambda: [sys.executable, "-m", "softneuro_tvm", "rpc-server"],
    }[kind]()
    return [*command, *([] if "--port" in options else ["--port", "0"]), *options]


class Tracker:
    """TVM's tracker in a process of its own, on a port that stays the same when it is started again."""

    def __init__(self) -> None:
        self.port = 0
        self._process: Any = None
        self.start()

    def start(self) -> None:
        """Starts it (again)."""
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            listener.listen(8)
            self.port = listener.getsockname()[1]
            self._process = _fork.Process(target=self._serve, args=(listener,), daemon=True)
            self._process.start()

    @staticmethod
    def _serve(listener: socket.socket) -> None:
        from tvm.rpc.tracker import _tracker_server

        _tracker_server(listener, "no key stops this tracker")

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.join(LIMIT_S)

    def kill_from_elsewhere(self) -> None:
        """Ends it from a process that is not its parent."""
        os.kill(self._process.pid, signal.SIGKILL)

    def summary(self) -> dict[str, Any]:
        """What TVM's client says about it."""

        def ask() -> dict[str, Any]:
            from tvm import rpc

            summary: dict[str, Any] = rpc.connect_tracker("127.0.0.1", self.port).summary()
            return summary

        return run_client(ask)

    def free(self, key: str) -> int:
        """How many boards it offers under a key."""
        return int(self.summary()["queue_info"].get(key, {"free": 0})["free"])

    def request(self, key: str, session_timeout: float = 0) -> Any:
        """A session of TVM's client; to be called in a client's process."""
        from tvm import rpc

        return rpc.connect_tracker("127.0.0.1", self.port).request(key, session_timeout=session_timeout)

    def match_key(self, key: str) -> tuple[str, int, str]:
        """Asks for a board as a client does that then does not go there: its address, port and match key."""
        from tvm.rpc import base

        with socket.create_connection(("127.0.0.1", self.port), LIMIT_S) as connection:
            connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            base.recvall(connection, 4)
            base.sendjson(connection, [base.TrackerCode.REQUEST, key, "", 1])
            address, port, match_key = base.recvjson(connection)[1]
        return address, port, match_key


def shake_hands(port: int, key: str = "client:") -> socket.socket:
    """A connection to a server that believes to talk to TVM's client."""
    connection = socket.create_connection(("127.0.0.1", port), LIMIT_S)
    connection.sendall(struct.pack("<ii", 0xFF271, len(key)) + key.encode())
    (magic,) = struct.unpack("<i", connection.recv(4, socket.MSG_WAITALL))
    assert magic == 0xFF271
    (length,) = struct.unpack("<i", connection.recv(4, socket.MSG_WAITALL))
    connection.recv(length, socket.MSG_WAITALL)
    return connection


def compile_kernels(library: Path, machine: str | None = None) -> Path:
    """Compiles the kernels that misbehave."""
    headers = runtime_for(machine).headers
    command = [*find_compiler(machine, "c"), "-shared", "-fPIC", "-O1", "-w", f"-I{headers}"]
    subprocess.run([*command, str(KERNELS), "-o", str(library)], check=True)
    return library


def call(remote: Any, library: Path, kernel: str, *arguments: Any) -> Any:
    """Uploads the kernels and calls one of them."""
    remote.upload(str(library))
    return remote.load_module(library.name).get_function(kernel)(*arguments)


def add_one(remote: Any, library: Path) -> list[float]:
    """A kernel that works, on 0, 1, 2, 3."""
    import numpy as np
    import tvm

    data = tvm.runtime.tensor(np.arange(4, dtype="float32"), remote.cpu())
    call(remote, library, "add_one", data)
    return [float(value) for value in data.numpy()]


def describe(server: Server) -> dict[str, Any]:
    """What a board says about itself."""
    described: dict[str, Any] = json.loads(server.connect().get_function("softneuro.system_info")())
    return described
