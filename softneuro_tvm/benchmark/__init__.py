"""Compares engines on one model: each in its own process, taking turns, the others stopped meanwhile."""

from __future__ import annotations

import json
import logging
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from softneuro_tvm.benchmark.engines import ENGINES
from softneuro_tvm.errors import ProfileError
from softneuro_tvm.machine import machine_lock

logger = logging.getLogger(__name__)

_ROUND_S = 0.25


@dataclass
class EngineResult:
    """What an engine did.

    Args:
        engine: Its name.
        samples_s: Seconds of single runs, over all rounds.
        turns_s: Median of the runs of each turn.
        error: max|y - reference| / max|reference| against the first engine that computes the reference.
        message: Why it could not run, if it could not.
    """

    engine: str
    samples_s: list[float] = field(default_factory=list)
    turns_s: list[float] = field(default_factory=list)
    error: float | None = None
    message: str = ""

    @property
    def median_s(self) -> float:
        """Median of all samples; infinite without any."""
        return statistics.median(self.samples_s) if self.samples_s else float("inf")

    @property
    def min_s(self) -> float:
        """Fastest sample; infinite without any."""
        return min(self.samples_s, default=float("inf"))

    def times(self, other: EngineResult) -> float:
        """How many times as long as another engine it took: the median over turns, in which both saw the same machine.

        Args:
            other: Of the same comparison.

        Returns:
            The ratio; infinite if one of them could not run.
        """
        ratios = [a / b for a, b in zip(self.turns_s, other.turns_s, strict=False)]
        return statistics.median(ratios) if ratios else float("inf")


class _Process:
    """One engine in a process of its own, driven by lines of JSON."""

    def __init__(self, engine: str, source: str, inputs: Path, outputs: Path, threads: int) -> None:
        self.result = EngineResult(engine)
        self.log = outputs.with_suffix(".log")  # what engines print is shown only if they fail
        environment = os.environ | {"TVM_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "softneuro_tvm.benchmark.worker", engine, source, str(inputs), str(outputs)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )

    def answer(self) -> dict[str, Any]:
        """The next line the process writes."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            last = self.log.read_text(errors="replace").strip().rpartition("\n")[2]
            return {"error": f"its process ended with code {self.process.wait()}: {last}"}
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, runs: int) -> list[float]:
        """Runs the engine alone and stops its process again."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{runs}\n")
        self.process.stdin.flush()
        answer = self.answer()
        self.process.send_signal(signal.SIGSTOP)
        if "error" in answer:
            raise ProfileError(f"engine {self.result.engine!r} failed while it was timed: {answer['error']}")
        return [float(sample) for sample in answer["samples"]]

    def close(self) -> None:
        """Ends the process."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


def compare(
    sources: Sequence[tuple[str, str]],
    inputs: dict[str, np.ndarray],
    *,
    threads: int,
    rounds: int = 9,
    progress: Callable[[str], None] = logger.info,
) -> list[EngineResult]:
    """Times engines side by side.

    Args:
        sources: Pairs of engine name and what it loads (a library for ``softneuro_tvm``, a model for the others).
        inputs: Arrays by input name.
        threads: Threads of each engine.
        rounds: Turns that each engine takes.
        progress: Is told what happens.

    Returns:
        One result for each engine, in order; one that could not run has a message and no samples.

    Raises:
        ProfileError: unknown engine, or one that died while it was timed.
    """
    for engine, _ in sources:
        if engine not in ENGINES:
            raise ProfileError(f"there is no engine {engine!r}; choose from {', '.join(sorted(ENGINES))}")
    with tempfile.TemporaryDirectory(prefix="softneuro_tvm-") as folder:
        given = Path(folder) / "inputs.npz"
        np.savez(given, **inputs)  # type: ignore[arg-type]
        processes: list[_Process] = []
        try:
            for position, (engine, source) in enumerate(sources):
                progress(f"loading {engine}")
                process = _Process(engine, source, given, Path(folder) / f"outputs{position}.npz", threads)
                processes.append(process)
                process.result.message = str(process.answer().get("error", ""))
                process.process.send_signal(signal.SIGSTOP)
            alive = [process for process in processes if not process.result.message]
            with machine_lock():
                _take_turns(alive, rounds, progress)
            _compare_outputs(Path(folder), processes)
        finally:
            for process in processes:
                process.close()
        return [process.result for process in processes]


def _take_turns(processes: list[_Process], rounds: int, progress: Callable[[str], None]) -> None:
    runs = {}
    for process in processes:
        seconds = min(process.ask(2))
        runs[process.result.engine] = max(1, min(50, int(_ROUND_S / seconds)))
    for turn in range(rounds):
        progress(f"round {turn + 1} of {rounds}")
        for process in processes:
            slow = runs[process.result.engine] == 1 and len(process.result.samples_s) >= 3
            if not slow:  # an engine of a second or more has said enough after three runs
                taken = process.ask(runs[process.result.engine])
                process.result.samples_s += taken
                process.result.turns_s.append(statistics.median(taken))


def _relative_error(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The worst of all outputs; infinite if an engine returns another number of values."""
    if [a.size for a in found] != [b.size for b in expected]:
        return float("inf")
    pairs = [(a.ravel(), b.ravel()) for a, b in zip(found, expected, strict=True)]
    return max(float(np.abs(a - b).max() / max(1e-30, np.abs(b).max())) for a, b in pairs)


def _compare_outputs(folder: Path, processes: list[_Process]) -> None:
    """Fills in errors against the reference engine: onnxruntime if it takes part, otherwise the first."""
    ready = [(i, process) for i, process in enumerate(processes) if not process.result.message]
    if not ready:
        return
    reference = next((i for i, process in ready if process.result.engine == "onnxruntime"), ready[0][0])
    with np.load(folder / f"outputs{reference}.npz") as archive:
        expected = [archive[name].astype(np.float64) for name in archive.files]
    for i, process in ready:
        with np.load(folder / f"outputs{i}.npz") as archive:
            found = [archive[name].astype(np.float64) for name in archive.files]
        process.result.error = _relative_error(found, expected)
