"""The cost model: times of candidates that nobody measured, with bounds; better with each measurement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from softneuro_tvm.cost_model.calibration import Calibration
from softneuro_tvm.cost_model.features import as_computed, candidate_features, workload_facts
from softneuro_tvm.cost_model.records import Record
from softneuro_tvm.cost_model.residuals import ErrorModel, Likeness, Posterior, Vector
from softneuro_tvm.cost_model.roofline import CALL_S
from softneuro_tvm.cost_model.trees import Trees
from softneuro_tvm.device import Device
from softneuro_tvm.routine import Candidate

LOW_LEVEL = 0.1
"""Share of candidates that are faster than their `Prediction.low_s`, unless a caller wants another.

Chosen by replaying tuning on seven networks, each left out of training: up to here, plans were within 1 % of the best
at a third of the measurements. These are the runs that it was chosen on (scripts/evaluate_cost_model --simulate).
"""
HIGH_LEVEL = 0.95
"""Share of candidates that are faster than their `Prediction.high_s`."""

_MOST_KNOWN = 1000
"""Measurements that are conditioned on; of more, the latest."""
_LEAST_S = 1e-9
"""Least predicted time, so that its logarithm exists."""
_DOUBT = 1.0
"""Standard deviation, in typical errors, of how differently the model errs on records that only resemble."""


@dataclass(frozen=True)
class Prediction:
    """What a candidate may take.

    Args:
        low_s: Few candidates are faster than this.
        median_s: As many are faster as slower.
        high_s: Few candidates are slower than this.
    """

    low_s: float
    median_s: float
    high_s: float


@dataclass(frozen=True, eq=False)
class Pretrained:
    """What is learnt from profile stores.

    Args:
        trees: Log of time over roofline time, and typical sizes of errors.
        errors: What errors have in common.
        calibration: Quantiles of errors over their standard deviations.
        unseen_scale: Typical error for routines that the trees do not know, in log time.
        foreign_sd: Standard deviation of the log of the speed of a device that the trees do not know.
        foreign_widening: Factor of typical errors on such a device.
        provenance: Where it comes from: part, target, records, versions, date; for people, and to know the device.
    """

    trees: Trees
    errors: ErrorModel
    calibration: Calibration
    unseen_scale: float
    foreign_sd: float
    foreign_widening: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def knows(self, device: Device) -> bool:
        """True if it was trained on this device."""
        return self.provenance.get("part") == device.part and device.vector_lanes in self.provenance.get("lanes", ())


_Asked = tuple[Candidate, int, str]
"""A candidate, its threads, and where its network's weights lie."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the trees say of a candidate, whatever is measured.

    Args:
        log_s: Log of the time, with the time of a call on top.
        scale: Typical error of that.
        place: `WorkloadFacts.place`.
    """

    log_s: float
    scale: float
    place: tuple[float, float, float, float]


class CostModel:
    """Predicts the median time of candidates on one device.

    Args:
        pretrained: What was learnt elsewhere.
        device: What candidates run on.
        residency: Where the network's weights lie between two runs: ``l2``, ``l3`` or ``dram``.
    """

    def __init__(self, pretrained: Pretrained, device: Device, residency: str = "l2") -> None:
        self.pretrained, self.device, self.residency = pretrained, device, residency
        self._measured: dict[Candidate, float] = {}
        self._seeds: tuple[Record, ...] = ()
        self._seen: dict[_Asked, _Seen] = {}
        is_known = pretrained.knows(device)
        self._device_sd = 0.03 if is_known else pretrained.foreign_sd
        self._widening = 1.0 if is_known else pretrained.foreign_widening
        self._posterior = self._seeded = self._condition()

    @staticmethod
    def for_device(device: Device, residency: str = "l2") -> CostModel:
        """The model that this package ships.

        Raises:
            CostModelError: the shipped file is missing or damaged.
        """
        from softneuro_tvm.cost_model.files import shipped

        return CostModel(shipped(), device, residency)

    def seed(self, records: Iterable[Record]) -> None:
        """Learns from measurements on this device of other networks' candidates, with any number of threads.

        They correct predictions, less than measurements of the candidates asked for do, and are never taken for those.
        """
        self._seeds = tuple(records)
        self._seeded = self._condition(with_measured=False)
        self._posterior = self._condition()

    def refine(self, records: Iterable[tuple[Candidate, float]]) -> None:
        """Learns from measurements on this device; what was learnt before is kept.

        Args:
            records: Candidates and their medians in seconds.
        """
        for candidate, median_s in records:
            self._measured.pop(candidate, None)  # so that the latest stand last
            self._measured[candidate] = median_s
        self._posterior = self._condition()

    def predict(
        self, candidates: Sequence[Candidate], *, low: float = LOW_LEVEL, high: float = HIGH_LEVEL
    ) -> list[Prediction]:
        """Predicts times; those of measured candidates, too.

        Args:
            candidates: Of any routine; for those that the model does not know, bounds are wide.
            low: Share of candidates that may be faster than `Prediction.low_s`.
            high: Share of candidates that should be faster than `Prediction.high_s`.
        """
        log_s, alike = self._prior([self._here(candidate) for candidate in candidates])
        (mean, deviation), (expected, _) = self._posterior(alike), self._seeded(alike)
        routines, calibration = [c.routine.name for c in candidates], self.pretrained.calibration
        expected = expected + self._posterior.common - self._seeded.common
        # what was measured was chosen because it looked fast: that it disappoints says less about the others
        means = (np.minimum(mean, expected), low), (mean, 0.5), (mean, high)
        found = [log_s + shift + calibration.quantiles(routines, level) * deviation for shift, level in means]
        times = np.maximum(np.exp(np.sort(np.array(found), axis=0)) - CALL_S, _LEAST_S)
        return [Prediction(*row) for row in times.T.tolist()]

    def _prior(self, asked: Sequence[_Asked]) -> tuple[Vector, Likeness]:
        """Log times by the trees, and what the candidates are compared by."""
        new = [one for one in dict.fromkeys(asked) if one not in self._seen]
        self._seen |= dict(zip(new, self._look_at(new), strict=True))
        seen = [self._seen[one] for one in asked]
        scales = np.array([s.scale for s in seen])
        candidates = [candidate for candidate, _, _ in asked]
        return np.array([s.log_s for s in seen]), likeness(candidates, [s.place for s in seen], scales)

    def _look_at(self, asked: Sequence[_Asked]) -> list[_Seen]:
        places = [(c, self.device.with_threads(threads), residency) for c, threads, residency in asked]
        facts = [workload_facts(*as_computed(c, device), residency) for c, device, residency in places]
        rows = [candidate_features(*place) for place in places]
        routines = [c.routine.name for c, _, _ in asked]
        found, scales = self.pretrained.trees(rows, routines)
        is_unseen = np.array([name not in self.pretrained.trees.routines for name in routines], bool)
        scales = self._widening * np.where(is_unseen, np.maximum(scales, self.pretrained.unseen_scale), scales)
        log_s = found + np.log(np.array([f.roofline_s for f in facts]))
        parts = zip(log_s.tolist(), scales.tolist(), facts, strict=True)
        return [_Seen(log, scale, fact.place) for log, scale, fact in parts]

    def _condition(self, with_measured: bool = True) -> Posterior:
        latest = dict(list(self._measured.items())[-_MOST_KNOWN:]) if with_measured else {}
        seeds = [seed for seed in self._seeds if seed.candidate not in latest]
        known = [*((s.candidate, s.threads, s.residency) for s in seeds), *map(self._here, latest)]
        log_s, alike = self._prior(known)
        times = np.array([*(s.median_s for s in seeds), *latest.values()])
        doubts = np.repeat([_DOUBT, 0.0], [len(seeds), len(latest)])
        return Posterior.of(self.pretrained.errors, self._device_sd, alike, np.log(times + CALL_S) - log_s, doubts)

    def _here(self, candidate: Candidate) -> _Asked:
        return candidate, self.device.threads, self.residency


def likeness(candidates: Sequence[Candidate], places: Sequence[Sequence[float]], scales: Vector) -> Likeness:
    """What candidates are compared by; see `Likeness`."""
    names = [(c.workload.kind, c.routine.name, c.workload, (c.routine.name, c.variant)) for c in candidates]
    return Likeness.of(names, places, scales)
