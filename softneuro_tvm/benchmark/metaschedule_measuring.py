"""MetaSchedule's builder and runner with forked children instead of freshly started interpreters."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.builder import BuilderInput, BuilderResult, PyBuilder
from tvm.s_tir.meta_schedule.builder.local_builder import default_build
from tvm.s_tir.meta_schedule.runner import EvaluatorConfig, PyRunner, PyRunnerFuture, RunnerInput, RunnerResult
from tvm.s_tir.meta_schedule.runner.local_runner import default_alloc_argument, default_run_evaluator

from softneuro_tvm.benchmark.forked import Failure, in_children
from softneuro_tvm.linking import linker

TIMEOUT_S = 30.0
"""For building, and for running, one candidate; as in TVM's own builder and runner."""


@dataclass
class Budget:
    """The time for tuning, and what became of it.

    Args:
        deadline_s: By `time.monotonic`.
        report: Is told after each batch of candidates.
        measured: Candidates that were timed.
        failures: Why others were not, and how often.
        stopped: Whether MetaSchedule's loop was ended because of the deadline.
    """

    deadline_s: float
    report: Callable[[Budget], None]
    measured: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    stopped: bool = False

    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self.deadline_s

    def count(self, results: Sequence[Any | Failure]) -> int:
        """How many results are good; notes why the others are not."""
        failed = [result.message.splitlines()[0][:120] for result in results if isinstance(result, Failure)]
        for message in failed:
            self.failures[message] = self.failures.get(message, 0) + 1
        return len(results) - len(failed)


def _build(given: Any, path: str) -> str:
    """In a child: compiles a candidate as TVM's builder does, and links it."""
    default_build(given.mod, given.target, None).export_library(path, fcompile=linker())
    return path


@derived_object
class ForkedBuilder(PyBuilder):  # type: ignore[misc]
    """Compiles candidates in forked children.

    Args:
        budget: Ends the whole tuning when it is spent.
        folder: For the libraries; MetaSchedule removes them when they have been timed.
        workers: Compilers at a time.
    """

    def __init__(self, budget: Budget, folder: Path, workers: int) -> None:
        super().__init__()
        self.budget, self.folder, self.workers = budget, folder, workers

    def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
        """Called by MetaSchedule with a batch of candidates of one task."""
        if self.budget.is_over():
            self.budget.stopped = True
            raise TimeoutError("the budget is spent")  # MetaSchedule's loop has no other way out
        calls = [
            partial(_build, given, str(Path(tempfile.mkdtemp(dir=self.folder)) / "candidate.so"))
            for given in build_inputs
        ]
        found = in_children(calls, workers=self.workers, timeout_s=TIMEOUT_S, stopped=self.budget.is_over)
        self.budget.count(found)
        return [BuilderResult(None, r.message) if isinstance(r, Failure) else BuilderResult(r, None) for r in found]


def _measure(path: str, kind: str, arguments: list[Any]) -> list[float]:
    """In a child: times a candidate as TVM's runner does."""
    device = tvm.runtime.device(kind, 0)
    tensors = default_alloc_argument(device, arguments, 1)
    found: list[float] = default_run_evaluator(tvm.runtime.load_module(path), device, EvaluatorConfig(), tensors)
    return found


@derived_object
class _Measured(PyRunnerFuture):  # type: ignore[misc]
    """A measurement that is there already."""

    def __init__(self, found: list[float] | Failure) -> None:
        super().__init__()
        self.found = found

    def done(self) -> bool:
        """Called by MetaSchedule."""
        return True

    def result(self) -> RunnerResult:
        """Called by MetaSchedule."""
        if isinstance(self.found, Failure):
            return RunnerResult(None, self.found.message)
        return RunnerResult(self.found, None)


@derived_object
class ForkedRunner(PyRunner):  # type: ignore[misc]
    """Times candidates one after the other, each in a forked child.

    Args:
        budget: No further candidate is timed when it is spent.
    """

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.budget = budget

    def run(self, runner_inputs: list[RunnerInput]) -> list[_Measured]:
        """Called by MetaSchedule with what was built of a batch."""
        calls = [
            partial(
                _measure,
                str(given.artifact_path),
                str(given.device_type),
                [argument.as_json() for argument in given.args_info],
            )
            for given in runner_inputs
        ]
        found = in_children(calls, workers=1, timeout_s=TIMEOUT_S, stopped=self.budget.is_over)
        self.budget.measured += self.budget.count(found)
        self.budget.report(self.budget)
        return [_Measured(each) for each in found]
