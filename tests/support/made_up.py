"""Made-up measurements: each candidate gets a repeatable time of its own, so that selection mixes routines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from softneuro_tvm.device import Device
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler.keys import candidate_text
from softneuro_tvm.routine import Candidate, View


def measurement(candidate: Candidate, seed: int = 0) -> Measurement:
    """Samples around 10 to 110 microseconds by the candidate's name."""
    digest = hashlib.sha256(f"{seed} {candidate_text(candidate)}".encode()).hexdigest()
    median = 1e-5 + int(digest[:8], 16) / 2**32 * 1e-4
    return Measurement("ok", tuple(round(median * factor, 9) for factor in (0.99, 1.0, 1.0, 1.0, 1.02)), 1e-6)


def with_views(candidates: Iterable[Candidate], device: Device, seed: int = 0) -> dict[Candidate, Measurement]:
    """The same, but no time for views, so that plans need the memory that they say."""
    names = ("reshape/view", "transpose/permuted", "layout_cast/transposed", "concat/in_place", "slice/view")
    found = profile(candidates, seed)
    for option in (candidate for candidate in found if candidate.routine.name in names):
        if isinstance(option.routine.emit(option.workload, option.variant, device), View):
            found[option] = Measurement("ok", (0.0,), 0.0)
    return found


def profile(candidates: Iterable[Candidate], seed: int = 0) -> dict[Candidate, Measurement]:
    """A profile of made-up measurements."""
    return {candidate: measurement(candidate, seed) for candidate in candidates}
