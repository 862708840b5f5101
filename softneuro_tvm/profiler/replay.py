"""A profile from recorded measurements: selection is tested, and plans are reproduced, without hardware or TVM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from softneuro_tvm.errors import ProfileError
from softneuro_tvm.measurement import Measurement, Profile
from softneuro_tvm.profiler.keys import candidate_text
from softneuro_tvm.routine import Candidate


def record(profile: Profile) -> dict[str, Any]:
    """A profile as plain values for `json`: measurements by `candidate_text`."""
    return {candidate_text(candidate): measurement.to_json() for candidate, measurement in profile.items()}


def replay(candidates: Iterable[Candidate], recorded: Mapping[str, Any]) -> Profile:
    """Looks candidates up in a recording instead of measuring them.

    Args:
        candidates: What to look up.
        recorded: As `record` makes it.

    Raises:
        ProfileError: a candidate is not in the recording.
    """
    found: dict[Candidate, Measurement] = {}
    for candidate in candidates:
        text = candidate_text(candidate)
        if text not in recorded:
            raise ProfileError(f"the recorded profile lacks {text!r}: record it again with the present routines")
        found[candidate] = Measurement.from_json(recorded[text])
    return Profile(found)
