"""What the profiler, its fork server and the tasks exchange. Needs no TVM."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from softneuro_tvm.formats import Format, TensorType
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler.sentinel import MachineSpeed, Sentinel
from softneuro_tvm.profiler.timing import TimingOptions
from softneuro_tvm.remote.board import Board
from softneuro_tvm.remote.loss import Cause


@dataclass(frozen=True)
class Task:
    """A request to the server.

    Args:
        number: Identifies the task in its `Outcome`.
        call: Pickled pair of a function's name in `tasks` and its arguments.
        timeout_s: After this time, or so long after its last partial result, the child is killed; see `Limit`.
    """

    number: int
    call: bytes
    timeout_s: float


@dataclass(frozen=True)
class Limit:
    """What a task yields to say how long its next result may take; nobody else sees it.

    Args:
        seconds: From now on.
    """

    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Args:
        number: The task's.
        status: ``part``: a partial result, others follow; ``ok``; ``error``: an exception left the function;
            ``environment``: one that tells of a full disk, lack of memory and the like; ``crash``: the process ended in
            another way; ``timeout``.
        value: Pickled result; None unless ``ok`` or ``part``.
        message: The exception or signal, and the last that the child wrote.
    """

    number: int
    status: Literal["part", "ok", "error", "environment", "crash", "timeout"]
    value: bytes | None
    message: str = ""


@dataclass(frozen=True)
class Compiled:
    """A candidate ready to be measured, or why it is not.

    Args:
        form: ``kernel``: a function of a library; ``relax``: a library for the virtual machine; ``view``: nothing
            runs; ``failed``.
        library: Path.
        symbol: Of the function.
        weights: Paths of the packed weights, in the order of the kernel's arguments.
        weight_bytes: Bytes of all of them.
        error_bound: The routine's.
        message: Why it failed.
    """

    form: Literal["kernel", "relax", "view", "failed"]
    library: str = ""
    symbol: str = "main"
    weights: tuple[str, ...] = ()
    weight_bytes: int = 0
    error_bound: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class MeasureRequest:
    """All that a child needs to check and time one candidate; plain values, no routine is imported.

    Args:
        compiled: What to run.
        inputs: Paths of the input arrays, in the formats in which they are read.
        outputs: Types and formats of the outputs.
        references: Paths of the expected outputs in their canonical layouts; empty if the kind has no reference.
        copies: Copies of the weights to rotate over.
        threads: Threads that the kernel may use.
        best_s: Median of the best candidate with the same formats so far.
        options: How to time.
        sentinel: Tells how fast the machine is.
    """

    compiled: Compiled
    inputs: tuple[str, ...]
    outputs: tuple[tuple[TensorType, Format], ...]
    references: tuple[str, ...]
    copies: int
    threads: int
    best_s: float
    options: TimingOptions
    sentinel: Sentinel


@dataclass(frozen=True)
class Measured:
    """What measuring yielded.

    Args:
        measurement: The candidate's.
        sentinel_s: Seconds of the reference kernel meanwhile; 0 if it did not run.
        lost_s: Seconds spent on waiting for a slow machine.
    """

    measurement: Measurement
    sentinel_s: float = 0.0
    lost_s: float = 0.0


@dataclass(frozen=True)
class SessionRequest:
    """What a child is to do in one session.

    Args:
        board: Where.
        threads: Threads that kernels use there.
        machine: The kind of processor that libraries are for.
        requests: What to measure, with numbers that identify it in what is sent back.
        tools: Path of the library of `compile_tools`.
        speeds: How fast each board was so far.
        avoid: Boards of which another one is preferred.
        deadline_s: By `time.monotonic`, which all processes of a machine share; no candidate is begun afterwards.
    """

    board: Board
    threads: int
    machine: str
    requests: Sequence[tuple[int, MeasureRequest]] = ()
    tools: str = ""
    speeds: Mapping[str, MachineSpeed] = field(default_factory=dict)
    avoid: frozenset[str] = frozenset()
    deadline_s: float = math.inf


@dataclass(frozen=True)
class MeasuredThere:
    """A candidate was measured.

    Args:
        number: Identifies it.
        measured: The result.
    """

    number: int
    measured: Measured


@dataclass(frozen=True)
class SessionLost:
    """The session ended while a candidate was being measured.

    Args:
        number: Identifies it.
        cause: See `Cause`.
        message: What is known about it.
    """

    number: int
    cause: Cause
    message: str


@dataclass(frozen=True)
class Toolchain:
    """What generates and compiles on a machine: equal ones yield equal object files.

    Args:
        tvm: Version.
        ffi: Version of TVM's interface to Python.
        sources: Stands for the sources of routines and code generator.
        platform: Operating system and kind of processor: the default of what is compiled for.
    """

    tvm: str
    ffi: str
    sources: str
    platform: str
