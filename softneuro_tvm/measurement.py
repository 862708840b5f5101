"""What measuring a candidate yields. Needs no TVM."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from softneuro_tvm.errors import ProfileError

Status = Literal["ok", "wrong", "error", "crash", "timeout"]
"""``wrong``: disagrees with the reference; ``error``: cannot be generated, compiled or called; ``crash``: killed."""


_QUARTILES_OF_A_NORMAL = 1.349
"""Distance between the quartiles of a normal distribution, in standard deviations."""
_MEDIAN_FACTOR = 1.2533
"""Standard error of the median of normally distributed samples over that of their mean."""
_BETWEEN_PROCESSES = 0.01
"""Standard deviation between the medians of several processes that time the same kernel, relative to the median."""


def spread(samples_s: Sequence[float]) -> float:
    """Distance between the quartiles of samples, relative to their median; 0 with fewer than two samples."""
    if len(samples_s) < 2:
        return 0.0
    lower, median, upper = statistics.quantiles(samples_s, n=4, method="inclusive")
    return (upper - lower) / median if median > 0 else 0.0


@dataclass(frozen=True)
class Measurement:
    """How one candidate did.

    Args:
        status: Only ``ok`` may be selected.
        samples_s: Seconds of one call in each timed sample, in the order they were taken.
        error: max|y - reference| / max|reference|; 0 where the layer kind has no reference, infinite where unknown.
        message: What went wrong, for people.
        sessions: How many of the samples each process took that measured this candidate; all were taken by one if
            empty.
        slowdown: How much slower than usual the machine was, by a reference kernel; 1 if it was not.
        board: Where it was measured last; empty if here.
    """

    status: Status
    samples_s: tuple[float, ...] = ()
    error: float = math.inf
    message: str = ""
    sessions: tuple[int, ...] = ()
    slowdown: float = 1.0
    board: str = ""

    @property
    def ok(self) -> bool:
        """True if the candidate is right and was timed."""
        return self.status == "ok"

    @property
    def median_s(self) -> float:
        """Median of the samples; infinite without samples."""
        return statistics.median(self.samples_s) if self.samples_s else math.inf

    @property
    def spread(self) -> float:
        """Distance between the quartiles of the samples, relative to their median; 0 with fewer than two samples."""
        return spread(self.samples_s)

    @property
    def repeats(self) -> int:
        """Processes that measured this candidate, each anew."""
        return max(1, len(self.sessions))

    @property
    def uncertainty_s(self) -> float:
        """Standard error of the median, in seconds; infinite without samples.

        What samples of one process have in common (the placing of memory, the state of the machine) does not average
        out over them, so a share of the median that only further processes make smaller comes on top.
        """
        if not self.samples_s:
            return math.inf
        deviation_s = self.spread * self.median_s / _QUARTILES_OF_A_NORMAL
        within_s = _MEDIAN_FACTOR * deviation_s / math.sqrt(len(self.samples_s))
        return math.hypot(within_s, _BETWEEN_PROCESSES * self.median_s / math.sqrt(self.repeats))

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json`; an infinite error becomes None."""
        values: dict[str, Any] = {
            "status": self.status,
            "samples_s": list(self.samples_s),
            "error": self.error if math.isfinite(self.error) else None,
            "message": self.message,
        }
        if self.sessions:
            values["sessions"] = list(self.sessions)
        if self.slowdown != 1.0:
            values["slowdown"] = self.slowdown
        if self.board:
            values["board"] = self.board
        return values

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Measurement:
        """Inverse of `to_json`.

        Raises:
            ProfileError: the data are not a measurement.
        """
        try:
            error = math.inf if data["error"] is None else float(data["error"])
            samples = tuple(map(float, data["samples_s"]))
            sessions = tuple(map(int, data.get("sessions", ())))
            slowdown = float(data.get("slowdown", 1.0))
            board = str(data.get("board", ""))
            found = Measurement(data["status"], samples, error, str(data["message"]), sessions, slowdown, board)
        except (KeyError, TypeError, ValueError) as cause:
            raise ProfileError(f"this is not a measurement: {data!r:.200} ({cause!r}); measure again") from cause
        if found.status not in get_args(Status):
            raise ProfileError(f"a measurement has the unknown status {found.status!r}; measure again")
        return found
