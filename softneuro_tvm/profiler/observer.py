"""How the profiler reports progress; the command line renders it. Needs no TVM."""

from __future__ import annotations

from typing import Protocol

from softneuro_tvm.measurement import Measurement
from softneuro_tvm.routine import Candidate


class Observer(Protocol):
    """Receives the profiler's progress, in the caller's thread."""

    def started(self, total: int, known: int) -> None:
        """Called before measuring for a number of threads: `known` of `total` candidates are in the store."""

    def round(self, count: int, open_count: int, best_s: float, bound_s: float) -> None:
        """Called when candidates are about to be measured, one round of several.

        Args:
            count: Candidates of this round.
            open_count: Candidates without a measurement that could change the plan.
            best_s: Seconds of the best plan of timed candidates; infinite if there is none yet.
            bound_s: Seconds that no plan undercuts, by prediction.
        """

    def compiled(self, candidate: Candidate) -> None:
        """Called when a candidate is ready to be measured, or failed to compile."""

    def measured(self, candidate: Candidate, measurement: Measurement) -> None:
        """Called when a candidate's measurement is in the store."""

    def finished(self) -> None:
        """Called when measuring for a number of threads is over."""


class SilentObserver:
    """Ignores progress."""

    def started(self, total: int, known: int) -> None:
        """Ignored."""

    def round(self, count: int, open_count: int, best_s: float, bound_s: float) -> None:
        """Ignored."""

    def compiled(self, candidate: Candidate) -> None:
        """Ignored."""

    def measured(self, candidate: Candidate, measurement: Measurement) -> None:
        """Ignored."""

    def finished(self) -> None:
        """Ignored."""
