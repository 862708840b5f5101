"""Why a session with a board ended early, as far as the client can tell. Needs no TVM."""

from __future__ import annotations

import re
import signal
from typing import Literal

Cause = Literal["time", "kernel", "board"]
"""It took too long; what ran in it ended its process; or something else ended it, a power cut for instance, for which
no kernel is to blame."""

_DIED = re.compile(r"the process that served this session (?:ended with|was killed by signal (\d+))")
"""How the servers of this package say that the process of a session ended."""
_FROM_OUTSIDE = {int(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM)}
"""Signals that kernels do not cause: people send them, and the board's system when memory is short."""
_TIMED_OUT = "RPCSessionTimeoutError"


def cause_of_loss(message: str, tells: bool) -> Cause:
    """Why a session ended early.

    Args:
        message: Of the call in whose time it ended.
        tells: Whether the server says so where a kernel is to blame. TVM's own says nothing: then it is the kernel.
    """
    if _TIMED_OUT in message:
        return "time"
    died = _DIED.search(message)
    if died is None:
        return "board" if tells else "kernel"
    return "board" if int(died[1] or 0) in _FROM_OUTSIDE else "kernel"
