from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from softneuro_tvm.errors import BuildError, PlanError
from softneuro_tvm.files import replacing, write_atomically
from softneuro_tvm.formats import Format
from softneuro_tvm.plan import AdapterChoice, Alternative, LayerChoice, Plan
from softneuro_tvm.routine import Variant


def example() -> Plan:
    blocked = Variant((("m", 4), ("wide", True)), (Format("NCHW16c"),), (Format("NCHW16c"),))
    cast = Variant((), (Format("NCHW"),), (Format("NCHW16c"),))
    other = Alternative("conv2d/direct", "cpu:float32:nchw16c/direct", 2e-3, 3e-3, 0.02, measured=False)
    layer = LayerChoice(
        "conv",
        "conv2d",
        "abc",
        "conv2d/winograd",
        blocked,
        "cpu",
        1e-3,
        0.01,
        (other,),
        (("x", "y"),),
        inputs=("in",),
        outputs=("out",),
        error=1e-6,
    )
    adapter = AdapterChoice("in", Format("NCHW"), Format("NCHW16c"), "layout_cast/transposed", cast, 1e-5)
    device = {"name": "host", "target": {"kind": "llvm"}, "part": "p", "threads": 2}
    return Plan(
        "m",
        "g",
        device,
        (layer,),
        (adapter,),
        1.01e-3,
        1.01e-3,
        "elimination",
        {"greedy": 2e-3},
        resources={"memory_bytes": 4096, "accuracy": 1e-6},
        limits={"memory_bytes": 5000},
        samples_s=(1e-3, 1.1e-3),
        pareto=({"predicted_s": 1.01e-3, "memory_bytes": 4096},),
        tuning={"measured": 3, "budget_s": None},
    )


def test_json_round_trip_is_exact() -> None:
    plan = example()
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "{", '{"version": 99}', '{"version": 1}', '{"version": 2}', '{"version": 2, "layers": 3}']
)
def test_malformed_plans_are_refused(text: str) -> None:
    with pytest.raises(PlanError):
        Plan.from_json(text)


@pytest.mark.parametrize("place", [(), ("layers", 0), ("layers", 0, "alternatives", 0), ("adapters", 0)])
def test_plans_with_missing_or_unknown_entries_are_refused(place: tuple[Any, ...]) -> None:
    whole = json.loads(example().to_json())
    part = whole
    for step in place:
        part = part[step]
    for key in [*part, "unknown"]:
        kept = part.pop(key, None)
        if key == "unknown":
            part[key] = 1
        with pytest.raises(PlanError):
            Plan.from_json(json.dumps(whole))
        part[key] = kept


def test_a_plan_of_an_earlier_version_says_so() -> None:
    data = json.loads(example().to_json()) | {"version": 1}
    with pytest.raises(PlanError, match="plan version 1 is not 2; make the plan again"):
        Plan.from_json(json.dumps(data))


def test_a_missing_plan_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"nowhere\.json"):
        Plan.load(tmp_path / "nowhere.json")


def test_save_and_load(tmp_path: Path) -> None:
    example().save(tmp_path / "p.json")
    assert Plan.load(tmp_path / "p.json") == example()
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    write_atomically(target, b"old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_an_absent_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="another folder"):
        write_atomically(tmp_path / "absent" / "file", b"")
