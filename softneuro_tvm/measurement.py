"""What measuring a candidate yields, and the table of all measurements that selection reads. Needs no TVM."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from softneuro_tvm.errors import ProfileError
from softneuro_tvm.routine import Candidate

Status = Literal["ok", "wrong", "error", "crash", "timeout"]
"""``wrong``: disagrees with the reference; ``error``: cannot be generated, compiled or called; ``crash``: killed."""


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
    """

    status: Status
    samples_s: tuple[float, ...] = ()
    error: float = math.inf
    message: str = ""

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

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json`; an infinite error becomes None."""
        return {
            "status": self.status,
            "samples_s": list(self.samples_s),
            "error": self.error if math.isfinite(self.error) else None,
            "message": self.message,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Measurement:
        """Inverse of `to_json`.

        Raises:
            ProfileError: the data are not a measurement.
        """
        try:
            error = math.inf if data["error"] is None else float(data["error"])
            samples = tuple(float(sample) for sample in data["samples_s"])
            found = Measurement(data["status"], samples, error, str(data["message"]))
        except (KeyError, TypeError, ValueError) as cause:
            raise ProfileError(f"this is not a measurement: {data!r:.200} ({cause!r}); measure again") from cause
        if found.status not in get_args(Status):
            raise ProfileError(f"a measurement has the unknown status {found.status!r}; measure again")
        return found


@dataclass(frozen=True, eq=False)
class Profile(Mapping[Candidate, Measurement]):
    """The measurement of every candidate that was asked for.

    Args:
        measurements: One for each candidate.
        measured: How many were measured now; the others were known.
    """

    measurements: Mapping[Candidate, Measurement]
    measured: int = 0

    def __getitem__(self, candidate: Candidate) -> Measurement:
        return self.measurements[candidate]

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.measurements)

    def __len__(self) -> int:
        return len(self.measurements)

    @property
    def failures(self) -> dict[Candidate, Measurement]:
        """The candidates that cannot be selected, with what went wrong."""
        return {candidate: found for candidate, found in self.measurements.items() if not found.ok}
