"""Shows how tuning proceeds: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import time

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from softneuro_tvm.cli.tables import console, milliseconds
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.routine import Candidate

_REPORT_S = 10.0
"""Seconds between lines of progress where there is no terminal."""
_WHAT_WIDTH = 46


class ProgressBar:
    """An observer of the profiler and the tuner.

    Args:
        silent: Shows nothing.
        budget_s: Seconds after which measuring ends, from now.
    """

    def __init__(self, silent: bool, budget_s: float | None = None) -> None:
        self.bar = Progress(
            TextColumn("tuning"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[plan]}", style="bold"),
            TextColumn("{task.description}", style="dim"),
            console=console,
            transient=True,
            disable=silent or not console.is_terminal,
        )
        self.silent = silent or console.is_terminal
        self.budget_s = budget_s
        self.begin = self.reported = time.monotonic()
        self.task = self.bar.add_task("", left="", plan="")
        self.failures: list[str] = []
        self.counts = {"total": 0, "known": 0, "measured": 0, "failed": 0}
        self.open_count = 0
        self.plan, self.has_plan, self.first_open = "no plan yet", False, 0
        self.bound_s = 0.0

    def started(self, total: int, known: int) -> None:
        """Starts the bar; once for each number of threads."""
        self.counts["total"] += total
        self.counts["known"] += known
        self.open_count = total - known
        self.bar.start()

    def round(self, count: int, open_count: int, best_s: float, bound_s: float) -> None:
        """Shows the best plan so far, and how much better one could be."""
        self.open_count, self.bound_s = max(open_count, count), bound_s
        self.has_plan |= best_s < math.inf
        self.first_open = 0 if self.has_plan else count
        if best_s < math.inf:
            self.plan = f"best {milliseconds(best_s)} ms, at least {milliseconds(bound_s)}"
        self._update()

    def compiled(self, candidate: Candidate) -> None:
        """Names what was compiled."""
        self._update(f"compiling {candidate.workload.kind} {candidate.descriptor}")

    def measured(self, candidate: Candidate, measurement: Measurement) -> None:
        """Counts, and names what was measured."""
        self.counts["measured"] += 1
        self.open_count -= 1
        if self.first_open > 1:
            self.first_open -= 1
            self.plan = f"no plan yet, {self.first_open} more for the first one"
        if not measurement.ok:
            self.counts["failed"] += 1
            self.failures.append(f"{candidate.workload.kind} {candidate.descriptor}: {measurement.message}")
        self._update(f"{candidate.workload.kind} {candidate.descriptor} {milliseconds(measurement.median_s)} ms")
        if not self.silent and time.monotonic() - self.reported > _REPORT_S:
            self.reported = time.monotonic()
            done = self.counts["known"] + self.counts["measured"]
            console.print(f"measured {done} of {self.counts['total']} candidates; {self.plan}", highlight=False)

    def finished(self) -> None:
        """Removes the bar."""
        self.bar.stop()

    def _update(self, what: str = "") -> None:
        """Progress is time where there is a budget, else candidates; what could change the plan is still to come."""
        elapsed_s = time.monotonic() - self.begin
        measured, left = self.counts["measured"], max(self.open_count, 0)
        if self.budget_s is not None:
            done, total, left_s = elapsed_s, self.budget_s, self.budget_s - elapsed_s
        else:
            done, total = measured, measured + left
            left_s = elapsed_s / measured * left if measured else math.inf
        text = f"at most {max(left_s, 0):.0f} s left" if left_s < math.inf else ""
        self.bar.update(self.task, completed=done, total=max(total, 1e-9), left=text, plan=self.plan)
        if what:
            self.bar.update(self.task, description=what[:_WHAT_WIDTH])
