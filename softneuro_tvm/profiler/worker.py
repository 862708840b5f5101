"""The fork server: a process that has imported TVM but started none of its threads, and forks a child for each task.

It is started by `softneuro_tvm.profiler.workers` as a fresh interpreter; nothing that the user's
process has loaded reaches it. Children run one task each: whatever a task does to its process, the server survives.
The server ends, and ends its children, as soon as the process that started it is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import IO, Any

from softneuro_tvm.lean_import import import_tvm

import_tvm()

from softneuro_tvm.errors import BuildError  # noqa: E402
from softneuro_tvm.profiler import tasks  # noqa: E402
from softneuro_tvm.profiler.messages import Limit, Outcome, Task  # noqa: E402
from softneuro_tvm.registry import layer_kinds, routines  # noqa: E402

_LOG_TAIL = 800
_GARBAGE_OBJECTS = 200_000
"""Objects between two searches for garbage: a child ends soon, and searching takes a tenth of compiling's time."""
_PR_SET_PDEATHSIG = 1
_LENGTH = struct.Struct("<Q")


@dataclass(eq=False)
class _Child:
    task: Task
    pid: int
    pipe: int
    log: IO[bytes]
    limit_s: float
    deadline: float
    received: bytearray = field(default_factory=bytearray)
    result: tuple[str, Any] | None = None
    overdue: bool = False


def _run(task: Task, pipe: int, log: IO[bytes], server: int) -> None:
    """A child's whole life; never returns."""
    status = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:
            os._exit(1)
        signal.setitimer(signal.ITIMER_REAL, task.timeout_s)  # the default action of SIGALRM ends the process
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        gc.set_threshold(_GARBAGE_OBJECTS)
        with open(pipe, "wb") as stream_out:
            try:
                name, arguments = pickle.loads(task.call)
                result = getattr(tasks, name)(*arguments)
                if isinstance(result, Generator):
                    limit_s = task.timeout_s
                    for part in result:
                        _write(stream_out, ("part", part))
                        limit_s = part.seconds if isinstance(part, Limit) else limit_s
                        signal.setitimer(signal.ITIMER_REAL, limit_s)
                    result = None
                _write(stream_out, ("ok", result))
            except Exception as error:  # the parent decides what an exception means for this task
                kind = "environment" if isinstance(error, OSError | MemoryError | BuildError) else "error"
                _write(stream_out, (kind, f"{type(error).__name__}: {error}"))
        status = 0
    finally:
        os._exit(status)


def _write(stream: IO[bytes], result: tuple[str, Any]) -> None:
    """Sends a result, partial or whole, after its length."""
    data = pickle.dumps(result)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


class _Server:
    """Runs tasks in children and sends their outcomes back."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._parent = os.getppid()
        self._children: dict[int, _Child] = {}

    def serve(self) -> None:
        """Serves until the other end is gone."""
        try:
            while os.getppid() == self._parent:
                for ready in wait([self._connection, *self._children], timeout=0.5):
                    if ready is self._connection:
                        self._start(self._connection.recv())
                    else:
                        self._read(self._children[ready])  # type: ignore[index]
                self._kill_overdue()
        except (EOFError, ConnectionError):
            return  # the other end closed the connection, or is gone
        finally:
            for child in self._children.values():
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)

    def _start(self, task: Task) -> None:
        log = tempfile.TemporaryFile()
        read_end, write_end = os.pipe()
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            for other in (read_end, self._connection.fileno(), *self._children):
                os.close(other)
            _run(task, write_end, log, server)
        os.close(write_end)
        self._children[read_end] = _Child(task, pid, read_end, log, task.timeout_s, _deadline_s(task.timeout_s))

    def _kill_overdue(self) -> None:
        for child in self._children.values():
            if not child.overdue and time.monotonic() > child.deadline:
                child.overdue = True
                os.kill(child.pid, signal.SIGKILL)

    def _read(self, child: _Child) -> None:
        chunk = os.read(child.pipe, 1 << 20)
        if chunk:
            child.received += chunk
            self._take(child)
            return
        os.close(child.pipe)
        del self._children[child.pipe]
        _, status = os.waitpid(child.pid, 0)
        child.log.seek(0)
        said = child.log.read().decode(errors="replace").strip()[-_LOG_TAIL:]
        child.log.close()
        self._connection.send(_outcome(child, status, said))

    def _take(self, child: _Child) -> None:
        """Takes the results that have arrived as a whole; passes partial ones on."""
        while len(child.received) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(child.received)[0]
            if len(child.received) < end:
                return
            child.result = pickle.loads(child.received[_LENGTH.size : end])
            del child.received[:end]
            kind, value = child.result
            if kind == "part":
                if isinstance(value, Limit):
                    child.limit_s = value.seconds
                else:
                    self._connection.send(Outcome(child.task.number, "part", pickle.dumps(value)))
                child.result, child.deadline = None, _deadline_s(child.limit_s)


def _deadline_s(limit_s: float) -> float:
    """When a child is killed; one that blocks SIGALRM is killed a little later."""
    return time.monotonic() + limit_s + 2


def _outcome(child: _Child, status: int, said: str) -> Outcome:
    number, tail = child.task.number, f"; it wrote: {said}" if said else ""
    if child.overdue or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM):
        return Outcome(number, "timeout", None, f"did not finish within {child.limit_s:g} s{tail}")
    if os.WIFSIGNALED(status):
        return Outcome(number, "crash", None, f"was ended by {signal.Signals(os.WTERMSIG(status)).name}{tail}")
    if os.WEXITSTATUS(status) or child.result is None:
        return Outcome(number, "crash", None, f"ended with exit status {os.WEXITSTATUS(status)}{tail}")
    kind, value = child.result
    if kind == "ok":
        return Outcome(number, "ok", pickle.dumps(value))
    return Outcome(number, "environment" if kind == "environment" else "error", None, f"{value}{tail}")


def main() -> None:
    """Serves the connection whose file descriptor is the first argument; the second names the scratch folder."""
    connection, folder = Connection(int(sys.argv[1])), sys.argv[2]
    try:
        layer_kinds(), routines()  # children inherit the imports
        gc.collect()
        gc.freeze()
        with contextlib.suppress(ConnectionError):
            connection.send("ready")
            _Server(connection).serve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
