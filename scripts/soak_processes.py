"""Processes of the soak test: who is whose child, who talks to whom, and servers that are started again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "SOFTNEURO_TVM_SOAK_PART"
"""Environment variable by which the processes of one soak test are found, whoever their parents are."""
_ESTABLISHED = "01"


@dataclass(frozen=True)
class Process:
    """A process as it was seen.

    Args:
        pid: Its number.
        parent: Its parent's.
        started: When, in clock ticks since the start of the machine: numbers are used again.
    """

    pid: int
    parent: int
    started: int


def processes() -> dict[int, Process]:
    """All processes but those that have ended."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    found[int(entry.name)] = Process(int(entry.name), int(fields[1]), int(fields[19]))
    return found


def descendants(pid: int) -> list[Process]:
    """Children of a process, their children, and so on."""
    everyone = processes()
    found: list[Process] = []
    parents = {pid}
    while parents:
        children = [process for process in everyone.values() if process.parent in parents]
        found += children
        parents = {child.pid for child in children}
    return found


def talking_to(candidates: Sequence[Process], ports: set[int]) -> list[Process]:
    """Those of some processes that hold a connection to one of some ports of this machine."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _ESTABLISHED and int(fields[2].rpartition(":")[2], 16) in ports:
            inodes.add(f"socket:[{fields[9]}]")
    return [process for process in candidates if inodes & set(_open_files(process.pid))]


def _open_files(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield os.readlink(entry.path)


def marked(mark: str) -> list[str]:
    """Running processes of a part of the test, as text for people."""
    found = []
    for pid in processes():
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"{pid} {words.strip()}"[:200])
    return found


def left_behind(mark: str, patience_s: float = 10.0) -> list[str]:
    """What `marked` still finds after some seconds."""
    deadline_s = time.monotonic() + patience_s
    while (found := marked(mark)) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return found


def send(process: Process, number: int) -> bool:
    """Sends a signal to a process, unless it has ended; whether it was there."""
    now = processes().get(process.pid)
    if now is None or now.started != process.started:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
        return True
    return False


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Supervised:
    """A server that is started again, after a random pause, when it ends.

    Args:
        name: For the report.
        command: Starts it.
        environment: Environment variables.
        log: File for what it writes.
        port: Where it listens.
        seed: Of the pauses.
        longest_pause_s: Before it is started again, at most.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        port: int,
        seed: int,
        longest_pause_s: float,
    ) -> None:
        self.name, self.port, self.starts = name, port, 0
        self._command, self._environment, self._log = list(command), dict(environment), log
        self._random, self._longest_pause_s = random.Random(f"{seed} {name}"), longest_pause_s
        self._ending = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()

    @property
    def process(self) -> Process | None:
        """What runs now."""
        return processes().get(self._process.pid)

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    def _supervise(self) -> None:
        while True:
            self._process.wait()
            if self._ending.wait(self._random.uniform(0, self._longest_pause_s)):
                return
            self._process = self._start()

    def end(self) -> None:
        """Ends it for good, in the way that it should be ended."""
        self._ending.set()
        while self._thread.is_alive():
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._thread.join(5)


def wait_until(condition: Callable[[], bool], what: str, patience_s: float) -> None:
    """Waits for a condition.

    Raises:
        TimeoutError: in vain.
    """
    deadline_s = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"waited {patience_s:g} s in vain for {what}")
        time.sleep(0.1)
