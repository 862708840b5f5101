"""Measurements as JSON values and back, so that selection is tested on recorded ones, without hardware."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler.keys import candidate_text
from softneuro_tvm.routine import Candidate


def record(profile: Mapping[Candidate, Measurement]) -> dict[str, Any]:
    """Measurements by `candidate_text`."""
    return {candidate_text(candidate): measurement.to_json() for candidate, measurement in profile.items()}


def replay(candidates: Iterable[Candidate], recorded: Mapping[str, Any]) -> dict[Candidate, Measurement]:
    """Inverse of `record`; a candidate that was not recorded is a `KeyError`."""
    return {candidate: Measurement.from_json(recorded[candidate_text(candidate)]) for candidate in candidates}
