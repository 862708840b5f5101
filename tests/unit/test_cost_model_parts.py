from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from softneuro_tvm.cost_model.calibration import LEVELS, Calibration
from softneuro_tvm.cost_model.features import matrix, same_memory
from softneuro_tvm.cost_model.records import candidate_of, usable_records, variant_from_text, workload_from_json
from softneuro_tvm.cost_model.residuals import COMPONENTS, ErrorModel, Likeness, Posterior
from softneuro_tvm.cost_model.roofline import CALL_S, peak_flops, roofline_s
from softneuro_tvm.device import Device
from softneuro_tvm.errors import ProfileError
from softneuro_tvm.formats import pack
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler.keys import Key, formats_text
from softneuro_tvm.registry import layer_kinds, routines_of

DEVICE = Device("made up", {"kind": "llvm"}, "part", vector_lanes=8, fma=True)


@pytest.mark.parametrize("kind", layer_kinds())
def test_workloads_and_variants_survive_their_texts(kind: str) -> None:
    for workload in layer_kinds()[kind].examples():
        assert workload_from_json(workload.json) == workload
        for routine in routines_of(kind):
            if routine.refusal(workload, DEVICE) is not None:
                continue
            for variant in routine.variants(workload, DEVICE):
                assert variant_from_text(variant.params_text, formats_text(variant)) == variant


def key(**changes: str) -> Key:
    workload = next(iter(layer_kinds()["softmax"].examples()))
    usual = Key(workload.json, "softmax/rows", "rows=2", "cpu:float32:NC -> cpu:float32:NC", "", "{}", "", 1, "", "l2")
    return dataclasses.replace(usual, **changes)  # type: ignore[arg-type]


def test_records_that_mean_nothing_today_are_skipped() -> None:
    good, failed = Measurement("ok", (1e-6, 3e-6, 2e-6)), Measurement("crash")
    changed = key().workload.replace('"axis"', '"dimension"')
    kept = list(
        usable_records(
            [
                (key(), good),
                (key(params="rows=4"), failed),
                (key(routine="softmax/gone"), good),
                (key(workload=changed), good),
                (key(workload='{"kind":"gone"}'), good),
                (key(workload="no json"), good),
                (key(formats="cpu -> nothing"), good),
            ]
        )
    )
    assert [(r.candidate, r.threads, r.median_s) for r in kept] == [(candidate_of(key()), 1, 2e-6)]
    with pytest.raises(ProfileError, match="gone"):
        candidate_of(key(routine="softmax/gone"))


@pytest.mark.parametrize("first", ["NCHW", "NHWC", "NCHW4c", "NCHW8c"])
@pytest.mark.parametrize("second", ["NCHW", "NHWC", "NCHW4c", "NCHW8c"])
@pytest.mark.parametrize("shape", [(1, 16, 3, 5), (1, 16, 1, 1), (1, 8, 3, 5), (1, 1, 4, 4), (2, 4, 1, 3)])
def test_same_memory_is_what_packing_shows(shape: tuple[int, ...], first: str, second: str) -> None:
    values = np.arange(1, 1 + math.prod(shape)).reshape(shape)
    packed = [pack(values, layout).ravel().tolist() for layout in (first, second)]
    assert same_memory(shape, first, second) == (packed[0] == packed[1])


def test_the_roofline_is_the_longer_of_computing_and_moving() -> None:
    flops = peak_flops(DEVICE)
    assert roofline_s(flops, 1.0, 0.0, "l2", DEVICE) == pytest.approx(1 + CALL_S)
    from_memory, from_cache = (roofline_s(0.0, 0.0, 1 << 18, residency, DEVICE) for residency in ("dram", "l2"))
    assert from_memory > from_cache > CALL_S
    assert roofline_s(flops, 0.0, 0.0, "l2", DEVICE.with_threads(2)) == pytest.approx(0.5 + CALL_S)


def test_absent_categories_are_no_and_absent_numbers_are_missing() -> None:
    table = matrix([{"tile": 4.0, "copy=rows": 1.0}, {"other": 1.0}], ("copy=rows", "tile"))
    assert table[0].tolist() == [1.0, 4.0] and table[1, 0] == 0.0 and np.isnan(table[1, 1])


def likeness(workloads: list[int], scales: float = 0.3) -> Likeness:
    names = [("kind", "routine", workload, number) for number, workload in enumerate(workloads)]
    places = [(float(workload), 0.0, 0.0, 0.0) for workload in workloads]
    return Likeness.of(names, places, np.full(len(workloads), scales))


def test_fitted_variances_are_those_of_the_errors() -> None:
    rng, groups = np.random.default_rng(0), []
    for _ in range(40):
        of = list(np.repeat(np.arange(12) * 10, 5))
        common = rng.standard_normal(12).repeat(5) * 0.8
        groups.append((likeness(of, 1.0), common + 0.6 * rng.standard_normal(60)))
    found = ErrorModel.fit(groups)
    assert found.total == pytest.approx(1.0, abs=0.1)
    assert found.noise == pytest.approx(0.36, abs=0.1)
    assert sum(found.variances[:3]) < 0.15


MODEL = ErrorModel(tuple(0.5 if name == "workload" else 0.0 for name in COMPONENTS), 0.5)


def test_an_error_is_passed_on_to_candidates_alike_only() -> None:
    posterior = Posterior.of(MODEL, 0.0, likeness([1]), np.array([0.3]), np.zeros(1))
    mean, deviation = posterior(likeness([1, 9]))
    assert mean == pytest.approx([0.15, 0.0], abs=1e-3)
    assert deviation == pytest.approx([0.3 * math.sqrt(0.75), 0.3], abs=1e-3)
    assert posterior.common == 0.0


def test_a_doubtful_error_says_less() -> None:
    means = []
    for doubt in (0.0, 1.0, 10.0):
        mean, deviation = Posterior.of(MODEL, 0.0, likeness([1]), np.array([0.3]), np.array([doubt]))(likeness([1]))
        means.append(mean[0])
        assert deviation[0] <= 0.3
    assert means[0] > 1.5 * means[1] > 1.5 * means[2] > 0


def test_what_all_errors_share_is_the_device() -> None:
    known = likeness(list(range(30)))
    posterior = Posterior.of(MODEL, 0.7, known, np.full(30, 0.9), np.zeros(30))
    mean, _ = posterior(likeness([99]))
    assert mean[0] == pytest.approx(0.9, abs=0.05)
    assert posterior.common == pytest.approx(mean[0])


def test_without_measurements_the_prior_holds() -> None:
    mean, deviation = Posterior.of(MODEL, 0.0, likeness([]), np.zeros(0), np.zeros(0))(likeness([1, 2]))
    assert mean.tolist() == [0.0, 0.0] and deviation == pytest.approx([0.3, 0.3])


def test_calibrated_quantiles_hold_the_share_they_promise() -> None:
    errors = np.random.default_rng(0).standard_normal(4000)
    routines = ["often"] * 3990 + ["seldom"] * 10
    found = Calibration.fit(errors, routines)
    for level in (0.05, 0.5, 0.95):
        assert np.mean(errors <= found.quantiles(routines, level)) == pytest.approx(level, abs=0.01)
    quantiles = [found.quantiles(["seldom", "never"], level) for level in LEVELS]
    assert np.all(np.diff(quantiles, axis=0) >= 0)
