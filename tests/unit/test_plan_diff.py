"""What differs between two plans, and how `plan diff` says it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from softneuro_tvm.cli.plan import app
from softneuro_tvm.errors import PlanError
from softneuro_tvm.plan import Plan
from softneuro_tvm.plan_diff import diff_plans
from tests.support.plans import adapter, choice, plan

BEFORE = plan(
    choice("conv1", "conv2d/stem", "NCHW16c", 0.1, reads="NCHW"),
    choice("conv2", "conv2d/winograd", "NCHW16c", 0.2, params={"m": 4, "rows": 2}),
    choice("relu", "elementwise/fused", "NCHW16c", 0.01),
    adapters=[adapter("relu", "NCHW16c", "NCHW", 0.02)],
)


def changed(**layers: object) -> Plan:
    """The plan with other choices for some layers."""
    made = [layers.get(item.layer, item) for item in BEFORE.layers]
    return plan(*made, adapters=BEFORE.adapters)  # type: ignore[arg-type]


def test_a_plan_is_the_same_as_itself() -> None:
    found = diff_plans(BEFORE, BEFORE)
    assert found.same
    assert found.remeasured_s == pytest.approx((0.33e-3, 0.33e-3))


def test_times_alone_are_no_difference() -> None:
    faster = [dataclasses.replace(item, median_s=item.median_s / 2) for item in BEFORE.layers]
    found = diff_plans(BEFORE, plan(*faster, adapters=BEFORE.adapters))
    assert found.same
    assert found.predicted_s == pytest.approx((0.33e-3, 0.175e-3))
    assert found.remeasured_s == pytest.approx((0.33e-3, 0.175e-3))


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (choice("conv2", "conv2d/direct", "NCHW16c", 0.3), ("routine",)),
        (choice("conv2", "conv2d/direct", "NCHW8c", 0.3), ("routine", "layout")),
        (choice("conv2", "conv2d/winograd", "NCHW16c", 0.3, params={"m": 6, "rows": 2}), ("parameters",)),
        (choice("conv2", "conv2d/winograd", "NCHW8c", 0.3, params={"m": 4, "rows": 2}), ("layout",)),
        (choice("conv2", "conv2d/winograd", "NCHW16c", 0.3, params={"m": 4, "rows": 2}, workload="v"), ("workload",)),
    ],
)
def test_what_differs_is_named(layer: object, what: tuple[str, ...]) -> None:
    found = diff_plans(BEFORE, changed(conv2=layer))
    assert not found.same
    assert [(item.layers, item.what) for item in found.layers] == [(("conv2",), what)]
    assert found.layers[0].seconds == pytest.approx((0.2e-3, 0.3e-3))
    assert found.remeasured_s == pytest.approx((0.13e-3, 0.13e-3))


def test_covers_are_compared_with_what_they_cover() -> None:
    covered = choice("conv1+conv2", "pair/bands", "NCHW16c", 0.25, reads="NCHW", covers=("conv1", "conv2"))
    after = plan(covered, BEFORE.layers[2], adapters=BEFORE.adapters)
    for first, second in ((BEFORE, after), (after, BEFORE)):
        found = diff_plans(first, second)
        assert [(item.layers, item.what) for item in found.layers] == [(("conv1", "conv2"), ("covers",))]
        assert sorted(found.layers[0].seconds) == pytest.approx([0.25e-3, 0.3e-3])
    assert diff_plans(after, after).same


def test_adapters_that_come_and_go() -> None:
    other = [adapter("relu", "NCHW16c", "NHWC", 0.03)]
    found = diff_plans(BEFORE, plan(*BEFORE.layers, adapters=other))
    assert (found.removed, found.added) == (BEFORE.adapters, tuple(other))
    assert not found.same and not found.layers


def test_devices_limits_and_resources() -> None:
    device = dict(BEFORE.device) | {"threads": 2}
    after = dataclasses.replace(BEFORE, device=device, limits={"memory_bytes": 5.0}, resources={"accuracy": 1.0})
    found = diff_plans(BEFORE, after)
    assert found.device == {"threads": (1, 2)}
    assert found.limits == {"memory_bytes": (None, 5.0)}
    assert found.resources == {"accuracy": (None, 1.0)}
    assert not found.same
    assert diff_plans(BEFORE, dataclasses.replace(after, device=BEFORE.device)).same


def test_other_models_are_compared_as_far_as_they_share_layers() -> None:
    trained_again = dataclasses.replace(BEFORE, graph="h")
    assert diff_plans(BEFORE, trained_again).model == "weights"
    assert not diff_plans(BEFORE, trained_again).same
    longer = plan(*BEFORE.layers, choice("more", "dense/packed", "NC", 0.1), graph="h")
    found = diff_plans(BEFORE, longer)
    assert (found.model, [(item.layers, item.what) for item in found.layers]) == ("layers", [(("more",), ("layers",))])
    with pytest.raises(PlanError, match="no layer in common"):
        diff_plans(BEFORE, plan(choice("more", "dense/packed", "NC", 0.1), graph="h"))


def run(tmp_path: Path, before: Plan, after: Plan, *options: str) -> tuple[int, str]:
    before.save(tmp_path / "a.json")
    after.save(tmp_path / "b.json")
    done = CliRunner().invoke(app, ["diff", str(tmp_path / "a.json"), str(tmp_path / "b.json"), *options])
    return done.exit_code, done.output


def test_exit_codes_are_those_of_diff(tmp_path: Path) -> None:
    code, text = run(tmp_path, BEFORE, BEFORE)
    assert code == 0
    assert "both build the same module" in text
    other = changed(conv2=choice("conv2", "conv2d/winograd", "NCHW16c", 0.1, params={"m": 6, "rows": 2}))
    code, text = run(tmp_path, BEFORE, other)
    assert code == 1
    assert "winograd m=4 in NCHW16c m=4" in " ".join(text.split())
    assert "0.330 ms -> 0.230 ms (-30.3%)" in text
    assert "layers that differ -0.1000 ms, adapters +0.0000 ms" in text
    code, text = run(tmp_path, BEFORE, dataclasses.replace(BEFORE, graph="h", layers=()))
    assert code == 2
    assert text.startswith("error: ") and "no layer in common" in text
    done = CliRunner().invoke(app, ["diff", str(tmp_path / "a.json"), str(tmp_path / "absent.json")])
    assert done.exit_code == 2
    assert "absent.json" in done.output


def test_json_says_the_same(tmp_path: Path) -> None:
    direct = changed(conv2=choice("conv2", "conv2d/direct", "NCHW8c", 0.3))
    code, text = run(tmp_path, BEFORE, direct, "--json")
    found = json.loads(text)
    assert code == 1
    assert found["same"] is False
    assert found["layers"][0]["what"] == ["routine", "layout"]
    assert found["layers"][0]["after"][0]["descriptor"] == "cpu:float32:nchw8c/direct"
    assert found["predicted_s"] == pytest.approx([0.33e-3, 0.43e-3])
