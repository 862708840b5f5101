"""A profiler that looks measurements up, and a cost model that is off by a known factor: tuning without hardware."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler import SilentObserver
from softneuro_tvm.profiler.keys import candidate_text
from softneuro_tvm.routine import Candidate


class FakeProfiler:
    """Has the part of `Profiler` that the tuner uses.

    Args:
        device: What is tuned for.
        truth: What measuring yields.
        interrupt_after: Raises `KeyboardInterrupt` instead of measuring more candidates than that.
    """

    def __init__(
        self, device: Device, truth: Mapping[Candidate, Measurement], interrupt_after: float = math.inf
    ) -> None:
        self.device, self.truth, self.interrupt_after = device, truth, interrupt_after
        self.observer = SilentObserver()
        self.results: dict[Candidate, Measurement] = {}
        self.looked_up: set[Candidate] = set()
        self.requests: list[Candidate] = []

    @property
    def measured(self) -> int:
        return len(self.requests)

    def start(self) -> None:
        pass

    def look_up(self, candidates: Iterable[Candidate]) -> None:
        self.looked_up |= set(candidates)

    def measure(self, candidates: Sequence[Candidate], deadline_s: float = math.inf) -> None:
        assert len(set(candidates)) == len(candidates)
        for candidate in candidates:
            assert candidate in self.looked_up
            if len(self.requests) >= self.interrupt_after:
                raise KeyboardInterrupt
            self.requests.append(candidate)
            found = self.truth[candidate]
            before = self.results.get(candidate)
            if before is not None and before.ok:
                counts = (*(before.sessions or (len(before.samples_s),)), len(found.samples_s))
                found = replace(found, samples_s=before.samples_s + found.samples_s, sessions=counts)
            self.results[candidate] = found


@dataclass(frozen=True)
class Prediction:
    low_s: float
    median_s: float
    high_s: float


class FakeModel:
    """Predicts the truth, off by a repeatable factor for each candidate, with bounds that hold.

    Args:
        truth: What measuring yields.
        factor: The most by which predictions are off.
    """

    def __init__(self, truth: Mapping[Candidate, Measurement], factor: float) -> None:
        self.truth, self.factor = truth, factor
        self.shown: list[tuple[Candidate, float]] = []

    def refine(self, records: Iterable[tuple[Candidate, float]]) -> Any:
        self.shown += records

    def predict(self, candidates: Sequence[Candidate]) -> list[Prediction]:
        found = []
        for candidate in candidates:
            seed = int(hashlib.sha256(candidate_text(candidate).encode()).hexdigest()[:8], 16)
            off = self.factor ** np.random.default_rng(seed).uniform(-1, 1)
            known_s = self.truth[candidate].median_s
            true_s = known_s if math.isfinite(known_s) else 1e-5
            median_s = float(true_s * off)
            found.append(Prediction(median_s / self.factor, median_s, median_s * self.factor))
        return found
