"""Made-up measurements: each candidate gets a repeatable time of its own, so that selection mixes routines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from softneuro_tvm.measurement import Measurement, Profile
from softneuro_tvm.profiler.keys import candidate_text
from softneuro_tvm.routine import Candidate


def measurement(candidate: Candidate, seed: int = 0) -> Measurement:
    """Samples around 10 to 110 microseconds by the candidate's name."""
    digest = hashlib.sha256(f"{seed} {candidate_text(candidate)}".encode()).hexdigest()
    median = 1e-5 + int(digest[:8], 16) / 2**32 * 1e-4
    return Measurement("ok", tuple(round(median * factor, 9) for factor in (0.99, 1.0, 1.0, 1.0, 1.02)), 1e-6)


def profile(candidates: Iterable[Candidate], seed: int = 0) -> Profile:
    """A profile of made-up measurements."""
    return Profile({candidate: measurement(candidate, seed) for candidate in candidates})
