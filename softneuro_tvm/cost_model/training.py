"""Trains the cost model, and judges it on networks that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.cost_model.calibration import Calibration
from softneuro_tvm.cost_model.features import Features, as_computed, candidate_features, workload_facts
from softneuro_tvm.cost_model.model import Pretrained, likeness
from softneuro_tvm.cost_model.records import Record
from softneuro_tvm.cost_model.residuals import ErrorModel, Likeness, Vector
from softneuro_tvm.cost_model.roofline import CALL_S
from softneuro_tvm.cost_model.trees import FEWEST_OF_ONE_ROUTINE, Trees
from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload

FOREIGN_SD = 0.7
"""Standard deviation of the log of an unknown core's speed over its nominal one: a factor of two either way."""
FOREIGN_WIDENING = 1.5
"""Factor of typical errors on an unknown core."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Records as arrays.

    Args:
        records: What was measured, repeats left out.
        rows: Features of each.
        routines: Name of its routine.
        targets: Log of its time over its roofline time.
        places: `WorkloadFacts.place`.
    """

    records: tuple[Record, ...]
    rows: tuple[Features, ...]
    routines: tuple[str, ...]
    targets: Vector
    places: Vector

    @staticmethod
    def of(records: Sequence[Record], device: Device) -> Dataset:
        """Looks at records; of one candidate's, at the last.

        Args:
            records: Taken on `device`.
            device: With any number of threads; records say how many they had.
        """
        latest = {(r.candidate, r.threads, r.residency): r for r in records}
        kept = sorted(latest.values(), key=_order)
        rows, logs, places = [], [], []
        for record in kept:
            with_threads = device.with_threads(record.threads)
            facts = workload_facts(*as_computed(record.candidate, with_threads), record.residency)
            rows.append(candidate_features(record.candidate, with_threads, record.residency))
            logs.append(np.log((record.median_s + CALL_S) / facts.roofline_s))
            places.append(facts.place)
        routines = tuple(r.candidate.routine.name for r in kept)
        return Dataset(tuple(kept), tuple(rows), routines, np.array(logs), np.array(places).reshape(-1, 4))

    @staticmethod
    def joined(datasets: Sequence[Dataset]) -> Dataset:
        """The records of several devices."""
        return Dataset(
            tuple(record for data in datasets for record in data.records),
            tuple(row for data in datasets for row in data.rows),
            tuple(routine for data in datasets for routine in data.routines),
            np.concatenate([data.targets for data in datasets]),
            np.concatenate([data.places for data in datasets]),
        )

    def fit(self, chosen: np.ndarray) -> Trees:
        """Trees grown on some of the records."""
        return Trees.fit([self.rows[i] for i in chosen], [self.routines[i] for i in chosen], self.targets[chosen])

    def errors(self, trees: Trees, chosen: np.ndarray) -> Vector:
        """Target minus prediction."""
        found, _ = trees([self.rows[i] for i in chosen], [self.routines[i] for i in chosen])
        errors: Vector = self.targets[chosen] - found
        return errors

    def likeness(self, chosen: np.ndarray, scales: Vector) -> Likeness:
        """What some of the records are compared by."""
        return likeness([self.records[i].candidate for i in chosen], self.places[chosen].tolist(), scales)


def _order(record: Record) -> tuple[Any, ...]:
    candidate = record.candidate
    variant = candidate.variant
    texts = (
        candidate.workload.json,
        candidate.routine.name,
        variant.params_text,
        str(variant.inputs + variant.outputs),
    )
    return (*texts, record.threads, record.residency)


@dataclass(frozen=True, eq=False)
class Fold:
    """A network held out.

    Args:
        network: Its name.
        rows: Its records.
        trees: Grown on the others.
        errors: Of those trees on its records.
    """

    network: str
    rows: np.ndarray
    trees: Trees
    errors: Vector


def hold_out(
    data: Dataset, networks: Mapping[str, frozenset[Workload]], report: Callable[[str], None] = lambda text: None
) -> list[Fold]:
    """Leaves out each network in turn.

    Args:
        data: All records.
        networks: Workloads of each network; all records of these are held out, whatever network they were taken for.
        report: Is told which network is next.
    """
    folds = []
    for network, workloads in networks.items():
        held = np.array([record.candidate.workload in workloads for record in data.records])
        if held.any() and not held.all():
            report(network)
            trees, rows = data.fit(np.flatnonzero(~held)), np.flatnonzero(held)
            folds.append(Fold(network, rows, trees, data.errors(trees, rows)))
    return folds


def unseen_scale(data: Dataset) -> float:
    """Typical error for routines that trees have not seen: the root mean square over routines left out in turn."""
    squares = []
    of = np.array(data.routines)
    for routine in sorted(set(data.routines)):
        held = of == routine
        if FEWEST_OF_ONE_ROUTINE <= held.sum() < len(of):
            trees = data.fit(np.flatnonzero(~held))
            squares.append(float(np.mean(data.errors(trees, np.flatnonzero(held)) ** 2)))
    return float(np.sqrt(np.median(squares))) if squares else 1.0


def finish(
    data: Dataset, trees: Trees, folds: Sequence[Fold], unseen: float, provenance: Mapping[str, Any]
) -> Pretrained:
    """A model of some trees, with the errors that trees like them made on networks they had not seen.

    Args:
        data: All records.
        trees: Grown on the records that the model may know.
        folds: Networks held out, none of which the model may not know.
        unseen: See `unseen_scale`.
        provenance: See `Pretrained`.
    """
    rows = np.concatenate([fold.rows for fold in folds])
    errors = np.concatenate([fold.errors for fold in folds])
    told = trees.with_spread([data.rows[i] for i in rows], errors)
    groups = []
    scaled = []
    for fold in folds:
        _, scales = told([data.rows[i] for i in fold.rows], [data.routines[i] for i in fold.rows])
        scaled.append(fold.errors / scales)
        devices = [(data.rows[i]["threads"], data.rows[i]["lanes"]) for i in fold.rows]
        for device in sorted(set(devices)):
            chosen = np.array([other == device for other in devices])
            groups.append((data.likeness(fold.rows[chosen], scales[chosen]), fold.errors[chosen]))
    model = ErrorModel.fit(groups)
    calibration = Calibration.fit(np.concatenate(scaled) / np.sqrt(model.total), [data.routines[i] for i in rows])
    return Pretrained(told, model, calibration, unseen, FOREIGN_SD, FOREIGN_WIDENING, provenance)


def without(data: Dataset, folds: Sequence[Fold], fold: Fold) -> list[Fold]:
    """The other networks' folds, less the records that belong to this one, too."""
    own = set(fold.rows.tolist())
    found = []
    for other in folds:
        kept = np.array([row not in own for row in other.rows.tolist()])
        if other is not fold and kept.any():
            found.append(Fold(other.network, other.rows[kept], other.trees, other.errors[kept]))
    return found


def train(
    data: Dataset,
    networks: Mapping[str, frozenset[Workload]],
    provenance: Mapping[str, Any],
    report: Callable[[str], None] = lambda text: None,
) -> tuple[Pretrained, list[Fold]]:
    """Trains a model on all records.

    Args:
        data: The records.
        networks: Workloads of networks, left out in turn to learn how large errors are.
        provenance: See `Pretrained`.
        report: Is told what is done.

    Returns:
        The model, and what happened to each network when it was left out.
    """
    folds = hold_out(data, networks, report)
    report("routines left out")
    unseen = unseen_scale(data)
    report("all records")
    return finish(data, data.fit(np.arange(len(data.records))), folds, unseen, provenance), folds
