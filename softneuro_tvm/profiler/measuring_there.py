"""Checks and times candidates on a board, one session for many of them; runs in a forked child that may be ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from softneuro_tvm.errors import BuildError
from softneuro_tvm.formats import TensorType, physical_shape
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.memory import aligned
from softneuro_tvm.profiler.measuring import check
from softneuro_tvm.profiler.messages import (
    Limit,
    Measured,
    MeasuredThere,
    MeasureRequest,
    SessionLost,
    SessionRequest,
)
from softneuro_tvm.profiler.sentinel import MachineSpeed, is_slow, sentinel_arguments, steady
from softneuro_tvm.profiler.timing import time_blocks
from softneuro_tvm.remote.connection import BoardSession, is_ours, last_line
from softneuro_tvm.remote.driver import BLANK, SPREAD, copy_bytes, rotation_symbol
from softneuro_tvm.remote.loss import cause_of_loss
from softneuro_tvm.remote.messages import Connected

Evaluate = Callable[[int, int], Sequence[float]]
"""Seconds of a call in each of so many samples (second argument) that average so many calls (first argument)."""

_SENTINEL_RUNS = 5


def measure_on_board(request: SessionRequest) -> Iterator[Connected | MeasuredThere | SessionLost | Limit]:
    """Holds a session and measures candidates in it; those for which no time is left are left out.

    Each result is yielded at once, so that what comes later cannot take it away.

    Raises:
        BoardError: no connection, or the board's server has too few threads.
        OSError: a file of this machine cannot be read.
    """
    session = BoardSession(request.board, request.avoid)
    yield Connected(session.name, session.facts, session.threads)
    there = _Measuring(session, request)
    for position, (number, candidate) in enumerate(request.requests):
        in_time = position == 0 or session.left_s > candidate.options.timeout_s
        if not in_time or time.monotonic() > request.deadline_s:
            return
        try:
            yield Limit(session.left_s)
            if position == 0:
                session.use_threads(request.threads)
            there.send(candidate)
            yield Limit(candidate.options.timeout_s)
            measured = there.measure(candidate)
        except Exception as error:  # TVM raises many types
            if is_ours(error) and not isinstance(error, BuildError):
                raise
            if not session.alive:
                yield SessionLost(number, cause_of_loss(str(error), bool(session.facts)), last_line(error))
                return
            measured = Measured(Measurement("error", message=f"{type(error).__name__}: {last_line(error)}"[:2000]))
        yield MeasuredThere(number, measured)


class _Measuring:
    """What the candidates of a session share."""

    def __init__(self, session: BoardSession, request: SessionRequest) -> None:
        self.session, self.machine, self.cooldown_ms = session, request.machine, int(1000 * request.board.cooldown_s)
        self.tools_path = request.tools
        self.speed = request.speeds.get(session.name, MachineSpeed())
        self.best_s: dict[Any, float] = {}
        self.operands: list[Any] = []
        self.folder = ""

    def send(self, request: MeasureRequest) -> None:
        """Sends what the board has not got yet: what takes how long depends on the line, not on the candidate."""
        if self.folder != (folder := str(Path(request.inputs[0]).parent) if request.inputs else ""):
            self.folder = folder  # the next workload's, with arrays of its own
            self.session.forget_tensors()
        for path in (request.compiled.library, self.tools_path):
            self.session.library(path, self.machine)
        for path in (*request.inputs, *request.compiled.weights):
            self.session.tensor(path)

    def measure(self, request: MeasureRequest) -> Measured:
        """Runs, checks and times a candidate that was sent."""
        ports = (request.inputs, request.outputs)
        request = replace(request, best_s=min(request.best_s, self.best_s.get(ports, math.inf)))
        if request.compiled.form == "relax":
            results, evaluate = self._relax(request)
        else:
            results, evaluate = self._kernel(request)
        error, wrong = check(request, results)
        if wrong:
            return Measured(Measurement("wrong", (), error, wrong))
        samples, sentinel_s, lost_s = steady(
            lambda: time_blocks(evaluate, request.best_s, request.options),
            lambda: self._sentinel_s(request),
            self.speed.usual_s,
            min(request.options.patience_s, max(0.0, request.options.total_patience_s - self.speed.lost_s)),
        )
        slowdown = sentinel_s / self.speed.usual_s if is_slow(sentinel_s, self.speed.usual_s) else 1.0
        self.speed.seconds.append(sentinel_s)
        self.speed.lost_s += lost_s
        found = Measurement("ok", samples, error, slowdown=slowdown)
        self.best_s[ports] = min(found.median_s, self.best_s.get(ports, math.inf))
        return Measured(found, sentinel_s, lost_s)

    @property
    def tools(self) -> Any:
        """The library of `compile_tools`."""
        return self.session.library(self.tools_path, self.machine)

    def _sentinel_s(self, request: MeasureRequest) -> float:
        if not self.operands:
            self.operands = [self.session.send(array) for array in sentinel_arguments(request.sentinel.device)]
        timer = self.tools.time_evaluator("sentinel", self.session.cpu, number=1, repeat=_SENTINEL_RUNS)
        seconds: Sequence[float] = timer(*self.operands).results
        return max(1e-9, min(seconds))

    def _kernel(self, request: MeasureRequest) -> tuple[Sequence[Any], Evaluate]:
        """Runs a kernel once: its outputs, and what times it."""
        session, compiled = self.session, request.compiled
        library = session.library(compiled.library, self.machine)
        inputs, weights = map(session.tensor, request.inputs), tuple(map(session.tensor, compiled.weights))
        given, outputs = tuple(inputs), tuple(map(self._blank, physical_types(request)))
        library[compiled.symbol](*given, *weights, *outputs)
        symbol, arguments = compiled.symbol, (*given, *weights, *outputs)
        if request.copies > 1:
            types = [TensorType(tuple(map(int, each.shape)), str(each.dtype)) for each in weights]
            stride, offset = copy_bytes(types), 0
            pool = session.pool(request.copies * stride)
            for weight, each in zip(weights, types, strict=True):
                self.tools[SPREAD](pool, weight, each.size_bytes, offset, stride, request.copies)
                offset += aligned(each.size_bytes)
            cursor = session.send(np.zeros(1, np.int64))
            symbol, arguments = rotation_symbol(symbol), (*given, pool, *outputs, cursor, request.copies)

        def evaluate(number: int, repeat: int) -> Sequence[float]:
            timer = library.time_evaluator(
                symbol,
                session.cpu,
                number=number,
                repeat=repeat,
                cooldown_interval_ms=self.cooldown_ms,
            )
            found: Sequence[float] = timer(*arguments).results
            return found

        return outputs, evaluate

    def _blank(self, tensor: TensorType) -> Any:
        """An output full of values that are no numbers: what a kernel does not write shows."""
        made = tvm.runtime.empty(tensor.shape, tensor.dtype, self.session.cpu)
        self.tools[BLANK](made, tensor.size_bytes)
        return made

    def _relax(self, request: MeasureRequest) -> tuple[Sequence[Any], Evaluate]:
        """Runs a function of the virtual machine once: its outputs, and what times it."""
        session, compiled = self.session, request.compiled
        machine = tvm.relax.VirtualMachine(session.library(compiled.library, self.machine), session.cpu)
        machine.set_input("main", *map(session.tensor, (*request.inputs, *compiled.weights)))
        machine.invoke_stateful("main")
        outputs = machine.get_outputs("main")
        # its weights cannot rotate: where they should not be in cache, everything is evicted before each run
        flush_bytes = request.copies * compiled.weight_bytes if request.copies > 1 else 0

        def evaluate(number: int, repeat: int) -> Sequence[float]:
            timer = machine.module.time_evaluator(
                "invoke_stateful",
                session.cpu,
                number=1 if flush_bytes else number,
                repeat=repeat,
                cooldown_interval_ms=self.cooldown_ms,
                cache_flush_bytes=flush_bytes,
            )
            found: Sequence[float] = timer("main").results
            return found

        return [outputs] if hasattr(outputs, "numpy") else list(outputs), evaluate


def physical_types(request: MeasureRequest) -> list[TensorType]:
    """Types of the outputs as a kernel writes them."""
    return [TensorType(physical_shape(t.shape, f.layout), str(np.dtype(f.dtype))) for t, f in request.outputs]
