"""One client, served by a process of its own: whatever its kernels do, the server goes on."""

from __future__ import annotations

import logging
import math
import os
import select
import shutil
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from softneuro_tvm.board.session_process import return_error, serve_client
from softneuro_tvm.board.signals import SignalPipe

_GONE_GRACE_S = 2.0
"""For a session to end by itself once its client is gone."""
_FAREWELL_TIMEOUT_S = 2
"""To tell a client why its session ended."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """How a session ended.

    Args:
        log: For the log.
        farewell: For the client; empty if it ended as it should.
    """

    log: str
    farewell: str = ""


@contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """A fresh folder that is removed afterwards, with whatever is in it."""
    folder = Path(tempfile.mkdtemp(prefix="softneuro-rpc-", dir=parent)).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, onerror=_report)


def run_session(
    connection: socket.socket, work_dir: Path, timeout_s: float, signals: SignalPipe, others: Sequence[socket.socket]
) -> str:
    """Serves a client that has shaken hands, from start to end.

    Args:
        connection: To the client.
        work_dir: Where a folder for its files is made.
        timeout_s: How long it may take; 0 for any time.
        signals: Of this process.
        others: Sockets of the server, which are none of the session's business.

    Returns:
        How it ended, for the log.

    Raises:
        OSError: no folder or no process can be had.
    """
    with work_folder(work_dir) as folder:
        child = os.fork()
        if child == 0:
            serve_client(connection, folder, signals, others)
        _lead_own_group(child)
        ending = _watch(child, connection, timeout_s, signals)
        if ending.farewell:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _FAREWELL_TIMEOUT_S, 0))
            return_error(connection, ending.farewell)
        return ending.log


def _watch(child: int, connection: socket.socket, timeout_s: float, signals: SignalPipe) -> Ending:
    """Waits for a session's process; kills it at its deadline, when its client is gone, and when the server stops."""
    deadline_s = time.monotonic() + timeout_s if timeout_s else math.inf
    gone_deadline_s = math.inf
    ending = None
    poll = select.poll()
    poll.register(signals.read_end, select.POLLIN)
    poll.register(connection, select.POLLRDHUP)
    # an ended process stays a zombie for now, so that its group cannot become that of another one
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        now = time.monotonic()
        if signals.stopping:
            ending = Ending("killed: the server stops", "the server is being stopped")
        elif now >= deadline_s:
            ending = Ending(
                f"killed: timeout of {timeout_s:g} s",
                f"RPCSessionTimeoutError: the session's {timeout_s:g} s have expired; ask for a longer "
                "session_timeout, or let the board allow more (--session-timeout)",
            )
        elif now >= gone_deadline_s:
            ending = Ending("killed: the client is gone")
        if ending is not None:
            break
        left_s = min(deadline_s, gone_deadline_s) - now
        for descriptor, _ in poll.poll(None if math.isinf(left_s) else left_s * 1000):
            if descriptor == signals.read_end:
                signals.drain()
            else:
                gone_deadline_s = time.monotonic() + _GONE_GRACE_S
                poll.unregister(connection)
    _kill_group(child)
    _, status = os.waitpid(child, 0)
    return ending or _ending_of(os.waitstatus_to_exitcode(status))


def _ending_of(code: int) -> Ending:
    if code == 0:
        return Ending("ended normally")
    if code > 0:
        return Ending(f"exit code {code}", f"the process that served this session ended with exit code {code}")
    cause = f"signal {-code} ({signal.strsignal(-code)})"
    return Ending(f"killed by {cause}", f"the process that served this session was killed by {cause}")


def _lead_own_group(child: int) -> None:
    """The child does the same: it must hold before either side goes on."""
    try:
        os.setpgid(child, child)
    except ProcessLookupError:
        logger.debug("process %d has ended already", child)


def _kill_group(child: int) -> None:
    """Kills a process with whatever it has started."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        logger.debug("nothing is left of process group %d", child)


def _report(_: Callable[..., object], path: str, error: object) -> None:
    logger.warning("cannot remove %s: %s", path, error[1] if isinstance(error, tuple) else error)
