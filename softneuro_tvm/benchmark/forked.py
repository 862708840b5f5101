"""Runs functions in forked children, so that neither a crash nor a hang reaches this process."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Failure:
    """A call without a result.

    Args:
        message: Why.
    """

    message: str


def in_children(
    calls: Sequence[Callable[[], Any]],
    *,
    workers: int,
    timeout_s: float,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Any | Failure]:
    """Runs each call in a child of its own.

    Forking is safe and cheap as long as this process has not started TVM's thread pool: the children start theirs.

    Args:
        calls: Functions without arguments; what they return must be picklable.
        workers: Children at a time.
        timeout_s: After this time a child is ended.
        stopped: Once it says so, no further child is started.

    Returns:
        Results in the order of `calls`.
    """
    results: list[Any | Failure] = [Failure("was not started: time is over")] * len(calls)
    waiting = deque(enumerate(calls))
    running: dict[Connection, tuple[int, Any]] = {}
    while True:
        while waiting and len(running) < workers and not stopped():
            index, call = waiting.popleft()
            ours, theirs = _FORK.Pipe(duplex=False)
            child = _FORK.Process(target=_run, args=(call, theirs, timeout_s), daemon=True)
            child.start()
            theirs.close()
            running[ours] = (index, child)
        if not running:
            return results
        for ready in wait(list(running)):
            assert isinstance(ready, Connection)
            index, child = running.pop(ready)
            results[index] = _outcome(ready, child)


def _run(call: Callable[[], Any], pipe: Connection, timeout_s: float) -> None:
    """A child's whole life."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)  # ends the process, also if its parent is gone
    try:
        result = call()
    except Exception as error:  # TVM raises many types
        result = Failure(f"{type(error).__name__}: {error}")
    pipe.send(result)


def _outcome(pipe: Connection, child: Any) -> Any | Failure:
    try:
        result = pipe.recv()
    except EOFError:
        child.join()
        how = signal.Signals(-child.exitcode).name if child.exitcode < 0 else f"exit status {child.exitcode}"
        result = Failure("did not finish in time" if how == "SIGALRM" else f"its process ended with {how}")
    pipe.close()
    child.join()
    child.close()
    return result
