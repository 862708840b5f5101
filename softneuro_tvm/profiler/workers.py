"""The profiler's side of the fork server: starts it, hands it tasks, collects outcomes, ends it. Needs no TVM."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from softneuro_tvm.device import available_cores
from softneuro_tvm.errors import ProfileError
from softneuro_tvm.linking import loadable_folder
from softneuro_tvm.profiler.messages import Outcome, Task

_ROOM_BYTES = 2 << 30
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class TaskServer(Protocol):
    """Runs tasks: `Workers`, or what stands for them."""

    folder: Path

    @property
    def compiling(self) -> int:
        """Batches that are worth compiling at a time."""

    def submit(self, function: str, arguments: tuple[Any, ...], timeout_s: float) -> int:
        """See `Workers.submit`."""

    def outcome(self) -> Outcome:
        """See `Workers.outcome`."""


class Workers:
    """A fork server, started at once; use as a context manager.

    Starting early pays: the server imports TVM while the caller does other work.

    Raises:
        BuildError: no folder for scratch files.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="softneuro_tvm-", dir=loadable_folder(_ROOM_BYTES)))
        self._connection, theirs = Pipe()
        self._log = tempfile.TemporaryFile()
        self._ready = False
        self._count = 0
        environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, "1")}
        environment["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        start = "from softneuro_tvm.profiler.worker import main; main()"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", start, str(theirs.fileno()), str(self.folder)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=environment,
                start_new_session=True,  # an interrupt reaches only this process, which ends the server
            )
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        finally:
            theirs.close()

    @property
    def compiling(self) -> int:
        """Batches that are worth compiling at a time."""
        return available_cores()

    def fileno(self) -> int:
        """What is readable when an outcome has arrived, once a task was submitted."""
        return self._connection.fileno()

    def submit(self, function: str, arguments: tuple[Any, ...], timeout_s: float) -> int:
        """Starts a task in a child of its own.

        Args:
            function: Name of a function of `softneuro_tvm.profiler.tasks`.
            arguments: Its positional arguments; they must be picklable.
            timeout_s: After this time the child is killed.

        Returns:
            The task's number.

        Raises:
            ProfileError: the server is gone.
        """
        self._count += 1
        self._exchange(lambda: self._connection.send(Task(self._count, pickle.dumps((function, arguments)), timeout_s)))
        return self._count

    def outcome(self) -> Outcome:
        """Waits for the next task to end.

        Raises:
            ProfileError: the server is gone.
        """
        found = self._exchange(self._connection.recv)
        assert isinstance(found, Outcome)
        return found

    def _exchange(self, action: Callable[[], Any]) -> Any:
        try:
            if not self._ready:
                self._connection.recv()
                self._ready = True
            return action()
        except (EOFError, ConnectionError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self._log.seek(0)
            said = self._log.read().decode(errors="replace").strip()[-2000:]
            raise ProfileError(
                f"the measuring process ended unexpectedly (exit status {self._process.returncode}): "
                f"{said or 'it wrote nothing; was it short of memory?'}; run again: what was measured is kept"
            ) from error

    def close(self) -> None:
        """Ends the server, all its children, and their files."""
        self._connection.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
