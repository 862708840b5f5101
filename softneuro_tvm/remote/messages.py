"""What is exchanged with children that hold sessions with boards. Needs no TVM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.remote.board import Board
from softneuro_tvm.step_times import StepTime


@dataclass(frozen=True)
class Connected:
    """A session has begun.

    Args:
        name: Address of the board.
        facts: What the board says about itself, see `softneuro_tvm.remote.facts`; nothing if its server cannot say.
        threads: Of its server's thread pool.
    """

    name: str
    facts: Mapping[str, Any]
    threads: int


@dataclass(frozen=True)
class Examined:
    """What was found out about a board.

    Args:
        name: Its address.
        facts: What it says about itself.
        threads: Of its server's thread pool.
        connect_s: Seconds to begin a session.
        round_trip_s: Seconds of a call that does nothing.
        bytes_per_s: Of an array that is sent.
        reference_s: Seconds of the reference kernel in each of several samples; none if it did not run.
    """

    name: str
    facts: Mapping[str, Any]
    threads: int
    connect_s: float
    round_trip_s: float
    bytes_per_s: float
    reference_s: tuple[float, ...]


@dataclass(frozen=True)
class NetworkRequest:
    """Whole networks to run in one session.

    Args:
        board: Where.
        libraries: Paths.
        rounds: Turns that each of them is timed in.
        repeat: Samples of each turn; as many as fit into a fraction of a second if 0.
        number: Runs that a sample averages.
        profiled: Further runs in which the kernel calls of each network are timed.
    """

    board: Board
    libraries: Sequence[str]
    rounds: int = 0
    repeat: int = 0
    number: int = 1
    profiled: int = 0


@dataclass(frozen=True)
class NetworkResult:
    """What networks did.

    Args:
        board: Address of the board.
        manifests: JSON text of each network's manifest.
        outputs: Arrays of each network.
        samples_s: Seconds of single runs of each network.
        steps: Times of each network's kernel calls, where they were asked for.
    """

    board: str
    manifests: list[str]
    outputs: list[list[np.ndarray]]
    samples_s: list[tuple[float, ...]]
    steps: list[list[StepTime]]
