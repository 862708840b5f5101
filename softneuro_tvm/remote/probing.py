"""Asks a board what it is and how it does; runs in a forked child that may be ended."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np

from softneuro_tvm.remote.board import Board
from softneuro_tvm.remote.connection import BoardSession
from softneuro_tvm.remote.messages import Connected, Examined

_CALLS = 20
_SENT_BYTES = 1 << 20
_RUNS = 30


def probe(board: Board) -> Connected:
    """Begins a session, and ends it at once.

    Raises:
        BoardError: no connection.
    """
    session = BoardSession(board)
    return Connected(session.name, session.facts, session.threads)


def examine(board: Board, machine: str, tools: str, operands: Sequence[np.ndarray]) -> Examined:
    """Tries out what measuring depends on.

    Args:
        board: Where.
        machine: The kind of processor that the reference kernel was compiled for.
        tools: Path of the library with the reference kernel.
        operands: Its arguments; none if it should not run.

    Raises:
        BoardError: no connection.
    """
    begin_s = time.perf_counter()
    session = BoardSession(board)
    connect_s = time.perf_counter() - begin_s
    count = session.rpc.get_function("runtime.NumThreads")
    trips = []
    for _ in range(_CALLS):
        begin_s = time.perf_counter()
        count()
        trips.append(time.perf_counter() - begin_s)
    round_trip_s = statistics.median(trips)
    begin_s = time.perf_counter()
    session.send(np.zeros(_SENT_BYTES, np.uint8))
    send_s = max(1e-9, time.perf_counter() - begin_s)
    reference_s: tuple[float, ...] = ()
    if operands:
        sent = [session.send(array) for array in operands]
        library = session.library(tools, machine)
        reference_s = tuple(library.time_evaluator("sentinel", session.cpu, number=10, repeat=_RUNS)(*sent).results)
    return Examined(
        session.name, session.facts, session.threads, connect_s, round_trip_s, _SENT_BYTES / send_s, reference_s
    )
