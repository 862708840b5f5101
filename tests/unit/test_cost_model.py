from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from softneuro_tvm.cost_model import CostModel, CostModelError, Prediction
from softneuro_tvm.cost_model.features import candidate_features, workload_facts
from softneuro_tvm.cost_model.files import load, save
from softneuro_tvm.cost_model.model import Pretrained
from softneuro_tvm.cost_model.records import Record
from softneuro_tvm.cost_model.training import Dataset, train
from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.conv2d import Conv2dAttributes
from softneuro_tvm.registry import layer_kind, routine
from softneuro_tvm.routine import Candidate, Variant

DEVICE = Device("made up", {"kind": "llvm"}, "part", vector_lanes=8, fma=True)
SLOWNESS = {"conv2d/direct": 3.0, "conv2d/im2col": 5.0}


def convolution(channels: int, size: int, outputs: int | None = None) -> Workload:
    weights = {"weight": TensorType((outputs or channels, channels, 3, 3)), "bias": TensorType((outputs or channels,))}
    x = TensorType((1, channels, size, size))
    return layer_kind("conv2d").workload(Conv2dAttributes(padding=(1, 1, 1, 1)), [x], weights)


def option(workload: Workload, name: str = "conv2d/direct", vectors: int = 2, layout: str = "NCHW8c") -> Candidate:
    port = Format(layout)
    return Candidate(workload, routine(name), Variant((("lanes", 8), ("vectors", vectors)), (port,), (port,)))


def true_s(candidate: Candidate, device: Device = DEVICE) -> float:
    """A made-up machine: a multiple of the roofline, with noise of its own for each candidate."""
    noise = np.random.default_rng([int(candidate.workload.digest[:8], 16), candidate.variant["vectors"]])
    least_s = workload_facts(candidate.workload, device, "l2").roofline_s
    factor = SLOWNESS[candidate.routine.name] * (1 + 0.2 * candidate.variant["vectors"])
    return factor * least_s * math.exp(0.1 * noise.standard_normal())


def options(channels: Sequence[int], sizes: Sequence[int]) -> list[Candidate]:
    places = product(channels, sizes, SLOWNESS, (1, 2, 3, 4))
    return [option(convolution(c, size), name, vectors) for c, size, name, vectors in places]


NETWORKS = {"a": (16, 48), "b": (32, 96), "c": (64, 24), "d": (128, 40)}
SIZES = (7, 10, 14, 20, 28, 56)


@lru_cache
def dataset() -> Dataset:
    found = [c for channels in NETWORKS.values() for c in options(channels, SIZES)]
    return Dataset.of([Record(c, 1, "l2", true_s(c)) for c in found], DEVICE)


@lru_cache
def pretrained() -> Pretrained:
    networks = {
        name: frozenset(convolution(c, size) for c in channels for size in SIZES) for name, channels in NETWORKS.items()
    }
    return train(dataset(), networks, {"part": "part", "lanes": [8]})[0]


def model(device: Device = DEVICE) -> CostModel:
    return CostModel(pretrained(), device)


UNSEEN = options((20, 56, 80, 112), (9, 12, 18, 24, 33, 40))


def ratios(predictions: Sequence[Prediction], candidates: Sequence[Candidate], factor: float = 1.0) -> np.ndarray:
    return np.array([p.median_s / (factor * true_s(c)) for p, c in zip(predictions, candidates, strict=True)])


def test_bounds_are_in_order_and_cover_workloads_that_were_not_seen() -> None:
    found = model().predict(UNSEEN)
    assert all(0 < p.low_s <= p.median_s <= p.high_s for p in found)
    assert np.mean([true_s(c) >= p.low_s for p, c in zip(found, UNSEEN, strict=True)]) >= 0.85
    assert np.mean([true_s(c) <= p.high_s for p, c in zip(found, UNSEEN, strict=True)]) >= 0.85
    assert np.median(np.abs(np.log(ratios(found, UNSEEN)))) < 0.25


def test_lower_levels_give_lower_bounds() -> None:
    bounds = [[p.low_s for p in model().predict(UNSEEN, low=level)] for level in (0.02, 0.1, 0.3)]
    assert all(a <= b <= c for a, b, c in zip(*bounds, strict=True))
    assert bounds[0] != bounds[2]


def test_settings_rank_as_they_were_measured() -> None:
    workload = convolution(80, 24)
    fast, slow = model().predict([option(workload, "conv2d/direct", 1), option(workload, "conv2d/im2col", 4)])
    assert fast.high_s < slow.median_s


def test_routines_that_were_not_seen_get_wide_bounds() -> None:
    workload = convolution(56, 12)
    known, unknown = model().predict([option(workload), option(workload, "conv2d/winograd")])
    assert unknown.high_s / unknown.low_s > 1.5 * known.high_s / known.low_s


def test_settings_and_kinds_that_were_not_seen_are_predicted() -> None:
    softmax = next(iter(layer_kind("softmax").examples()))
    known = next(iter(routine("softmax/rows").variants(softmax, DEVICE)))
    strange = Variant((("copy", "sideways"), ("depth", 99)), (Format("NHWC"),), (Format("NHWC"),))
    found = model().predict(
        [
            Candidate(convolution(16, 7), routine("conv2d/direct"), strange),
            Candidate(softmax, routine("softmax/rows"), known),
        ]
    )
    assert all(0 < p.low_s <= p.median_s <= p.high_s < math.inf for p in found)


def test_nothing_gives_nothing() -> None:
    assert model().predict([]) == []


def test_refining_shifts_predictions_towards_the_measurements_and_narrows_them() -> None:
    refined, factor = model(), 1.4
    before = refined.predict(UNSEEN)
    measured = [c for c in UNSEEN if c.variant["vectors"] in (1, 3)]
    refined.refine((c, factor * true_s(c)) for c in measured)
    rest = [i for i, c in enumerate(UNSEEN) if c not in measured]
    after = refined.predict(UNSEEN)
    others = [UNSEEN[i] for i in rest]
    wrong_before = np.abs(np.log(ratios([before[i] for i in rest], others, factor)))
    wrong_after = np.abs(np.log(ratios([after[i] for i in rest], others, factor)))
    assert wrong_after.mean() < 0.75 * wrong_before.mean()


def test_measurements_narrow_the_bounds_of_candidates_alike() -> None:
    refined = model()
    before = refined.predict(UNSEEN)
    refined.refine((c, p.median_s) for c, p in zip(UNSEEN, before, strict=True) if c.variant["vectors"] in (1, 3))
    others = [i for i, c in enumerate(UNSEEN) if c.variant["vectors"] in (2, 4)]
    widths = [
        [math.log(found[i].high_s / found[i].low_s) for i in others] for found in (before, refined.predict(UNSEEN))
    ]
    assert np.mean(widths[1]) < 0.95 * np.mean(widths[0])


def seeded(factor: float, threads: int = 1, residency: str = "l2") -> CostModel:
    """A model that was shown other workloads, which took so many times as long as usual."""
    found, there = model(), DEVICE.with_threads(threads)
    shown = options((16, 48), (14, 28))
    found.seed(Record(c, threads, residency, factor * true_s(c, there)) for c in shown)
    return found


def test_near_records_shift_predictions_less_than_measurements_do() -> None:
    before, near = model().predict(UNSEEN), seeded(1.5).predict(UNSEEN)
    measured = model()
    measured.refine((c, 1.5 * true_s(c)) for c in options((16, 48), (14, 28)))
    shifts = [
        np.mean([math.log(found.median_s / old.median_s) for found, old in zip(after, before, strict=True)])
        for after in (near, measured.predict(UNSEEN))
    ]
    assert 0.02 < shifts[0] < shifts[1] < math.log(1.6)


def test_lower_bounds_follow_near_records_in_both_directions() -> None:
    # these were not chosen because they looked fast
    lows = [np.mean([math.log(p.low_s) for p in seeded(factor).predict(UNSEEN)]) for factor in (0.7, 1.0, 1.5)]
    assert lows[0] < lows[1] - 0.02 < lows[1] < lows[2] - 0.02


def test_near_records_are_seen_with_their_own_threads() -> None:
    own, more = seeded(1.0).predict(UNSEEN), seeded(1.0, threads=4).predict(UNSEEN)
    assert np.mean([abs(math.log(a.median_s / b.median_s)) for a, b in zip(own, more, strict=True)]) < 0.3


def test_a_near_record_gives_way_to_a_measurement_of_the_same_candidate() -> None:
    candidate, taken_s = UNSEEN[0], true_s(UNSEEN[0])
    plain, wrong = model(), model()
    wrong.seed([Record(candidate, 1, "l2", 5 * taken_s)])
    assert wrong.predict([candidate])[0].median_s > plain.predict([candidate])[0].median_s
    for each in (plain, wrong):
        each.refine([(candidate, taken_s)])
    assert wrong.predict([candidate])[0].median_s == pytest.approx(plain.predict([candidate])[0].median_s)


def test_no_near_records_change_nothing() -> None:
    empty = model()
    empty.seed([])
    assert empty.predict(UNSEEN) == model().predict(UNSEEN)


def test_refining_in_steps_is_refining_at_once() -> None:
    once, stepwise = model(), model()
    records = [(c, true_s(c)) for c in UNSEEN[:6]]
    once.refine(records)
    for record in records:
        stepwise.refine([record])
    for a, b in zip(once.predict(UNSEEN), stepwise.predict(UNSEEN), strict=True):
        assert (a.low_s, a.median_s, a.high_s) == pytest.approx((b.low_s, b.median_s, b.high_s))


def test_an_unknown_device_starts_with_wide_bounds_and_its_speed_is_learnt() -> None:
    foreign = replace(DEVICE, part="another part")
    slower, factor = model(foreign), 2.5
    before = slower.predict(UNSEEN)
    known = model().predict(UNSEEN)
    assert before[0].high_s / before[0].low_s > 2 * known[0].high_s / known[0].low_s
    learnt = options((16, 48), (14,))
    slower.refine((c, factor * true_s(c)) for c in learnt)
    after = slower.predict(UNSEEN)
    assert abs(np.log(ratios(after, UNSEEN, factor)).mean()) < 0.15
    assert np.mean([p.low_s for p in after]) > np.mean([p.low_s for p in before])
    assert np.mean([factor * true_s(c) >= p.low_s for p, c in zip(after, UNSEEN, strict=True)]) >= 0.85


def test_disappointing_measurements_do_not_raise_lower_bounds_of_others() -> None:
    disappointed = model()
    before = disappointed.predict(UNSEEN)
    workload = convolution(56, 12)
    first = [c for c in UNSEEN if c.workload == workload and c.variant["vectors"] == 1]
    disappointed.refine((c, 2 * true_s(c)) for c in first)
    others = [i for i, c in enumerate(UNSEEN) if c.workload == workload and c not in first]
    after = disappointed.predict(UNSEEN)
    assert all(after[i].median_s > before[i].median_s for i in others)
    common = math.exp(disappointed._posterior.common)
    width = {i: math.log(before[i].median_s / before[i].low_s) for i in others}
    assert all(after[i].low_s <= before[i].low_s * common * math.exp(width[i] / 2) for i in others)


def test_views_and_times_of_nothing_can_be_learnt() -> None:
    refined = model()
    refined.refine([(UNSEEN[0], 0.0), (UNSEEN[1], 1e-9)])
    assert all(0 < p.low_s < math.inf for p in refined.predict(UNSEEN))


def test_training_is_repeatable_and_survives_a_file(tmp_path: Path) -> None:
    save(pretrained(), tmp_path / "first.zip")
    networks = {
        name: frozenset(convolution(c, size) for c in channels for size in SIZES) for name, channels in NETWORKS.items()
    }
    save(train(dataset(), networks, {"part": "part", "lanes": [8]})[0], tmp_path / "second.zip")
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()
    restored = CostModel(load(tmp_path / "first.zip"), DEVICE)
    assert restored.predict(UNSEEN) == model().predict(UNSEEN)


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "broken.zip"
    path.write_bytes(b"no archive")
    with pytest.raises(CostModelError, match="train_cost_model"):
        load(path)
    with pytest.raises(CostModelError, match="cannot be read"):
        load(tmp_path / "missing.zip")


def test_the_shipped_model_predicts_for_any_device_and_says_where_it_comes_from() -> None:
    shipped = CostModel.for_device(replace(DEVICE, vector_lanes=4, vector_registers=32))
    small, large = shipped.predict([option(convolution(32, 14)), option(convolution(256, 56))])
    assert 10 * small.median_s < large.median_s
    assert all(p.high_s > 2 * p.low_s for p in (small, large))  # this device was never measured
    assert {"machine", "records", "tvm", "date"} <= set(shipped.pretrained.provenance)


def test_features_need_no_code_for_a_routine() -> None:
    candidate = option(convolution(20, 10))
    found = candidate_features(candidate, DEVICE, "dram")
    assert found["vectors"] == 2 and found["routine=conv2d/direct"] == 1 and found["attributes.padding.2"] == 1
    assert found["fill.channels/lanes"] == pytest.approx(20 / 24)
    assert found["fill.channels/vectors*lanes"] == pytest.approx(20 / 32)
    assert found["padding"] == pytest.approx(24 / 20)
    assert all(math.isfinite(value) for value in found.values())
