"""What a plan says that it needs is what the built module needs."""

from __future__ import annotations

import pytest

import softneuro_tvm as sn
from softneuro_tvm.builder import emit
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.device import Device
from softneuro_tvm.measurement import Measurement, Profile
from softneuro_tvm.routine import VIEW, Candidate
from softneuro_tvm.selection import Limits, select
from tests.support import made_up

VIEWS = ("reshape/view", "transpose/permuted", "layout_cast/transposed")


def measured(candidate: Candidate, device: Device, seed: int) -> Measurement:
    """Made up, but nothing where nothing runs."""
    if candidate.routine.name in VIEWS:
        if candidate.routine.emit(candidate.workload, candidate.variant, device) is VIEW:
            return Measurement("ok", (0.0,), 0.0)
    return made_up.measurement(candidate, seed)


@pytest.mark.parametrize("name", ["digits", "mobilenet_v2", "shufflenet_v2", "unet", "vit_tiny", "yolov5n"])
def test_predicted_memory_is_that_of_the_arena(name: str) -> None:
    graph, device = sn.load(f"zoo:{name}").graph, sn.host_device(1)
    candidates = enumerate_candidates(graph, device)
    profile = Profile({candidate: measured(candidate, device, 1) for candidate in candidates.all()})
    plan = select(graph, candidates, profile, device)
    _, memory = emit(graph, plan, device)
    assert plan.resources["memory_bytes"] == memory["lower_bound_bytes"]
    assert plan.resources["weights_bytes"] == memory["weights_bytes"]
    assert plan.resources["workspace_bytes"] == memory["workspace_bytes"]


def test_a_plan_under_limits_is_built_within_them() -> None:
    graph, device = sn.load("zoo:digits").graph, sn.host_device(1)
    candidates = enumerate_candidates(graph, device)
    profile = Profile({candidate: measured(candidate, device, 1) for candidate in candidates.all()})
    free = select(graph, candidates, profile, device)
    limits = Limits(weights_bytes=0.8 * free.resources["weights_bytes"], workspace_bytes=1 << 14)
    plan = select(graph, candidates, profile, device, limits=limits)
    _, memory = emit(graph, plan, device)
    assert memory["weights_bytes"] <= limits.given["weights_bytes"]
    assert memory["workspace_bytes"] <= limits.given["workspace_bytes"]
    assert plan.predicted_s > free.predicted_s
