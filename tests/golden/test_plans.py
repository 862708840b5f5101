"""Selection on a recorded profile gives the recorded plan.

The profile is of a made-up device with made-up times, repeatable and different for every candidate, so that this runs
without measuring and every routine gets its turn. After a deliberate change `pytest tests/golden --update-golden`
writes the files anew; read the difference before committing it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import softneuro_tvm as sn
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.selection import select
from tests.support import made_up
from tests.support.recordings import record, replay

FOLDER = Path(__file__).parent
DEVICE = sn.Device(
    "golden", {"kind": "llvm", "mcpu": "haswell"}, "recorded", 1, vector_lanes=8, vector_registers=16, fma=True
)


def test_digits(request: pytest.FixtureRequest) -> None:
    graph = sn.load("zoo:digits").graph
    candidates = enumerate_candidates(graph, DEVICE)
    profile_file, plan_file = FOLDER / "digits.profile.json", FOLDER / "digits.plan.json"
    if request.config.getoption("--update-golden"):
        made = made_up.profile(candidates.all(), seed=3)  # a plan with an adapter and a cover
        profile_file.write_text(json.dumps(record(made), indent=1, sort_keys=True) + "\n")
        plan_file.write_text(select(graph, candidates, made, DEVICE).to_json())
    recorded = json.loads(profile_file.read_text())
    plan = select(graph, candidates, replay(candidates.all(), recorded), DEVICE)
    found, expected = json.loads(plan.to_json()), json.loads(plan_file.read_text())
    for data in (found, expected):
        del data["graph"]  # folded constants may differ in their last bit between processors
    assert found == expected
    assert plan.lower_bound_s == pytest.approx(plan.predicted_s)
