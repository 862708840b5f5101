"""What a plan says that it needs is what the built module needs."""

from __future__ import annotations

import pytest

import softneuro_tvm as sn
from softneuro_tvm.builder import emit
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.selection import Limits, select
from tests.support import made_up

NETWORKS = ["digits", "mobilenet_v2", "shufflenet_v2", "unet", "squeezenet1_1", "vit_tiny", "yolov5n"]


@pytest.mark.parametrize("name", NETWORKS)
def test_predicted_memory_is_that_of_the_arena(name: str) -> None:
    graph, device = sn.load(f"zoo:{name}").graph, sn.host_device(1)
    candidates = enumerate_candidates(graph, device)
    profile = made_up.with_views(candidates.all(), device, 1)
    plan = select(graph, candidates, profile, device)
    memory = emit(graph, plan, device).memory
    assert plan.resources["memory_bytes"] == memory["lower_bound_bytes"]
    assert plan.resources["weights_bytes"] == memory["weights_bytes"]
    assert plan.resources["workspace_bytes"] == memory["workspace_bytes"]


def test_a_plan_under_limits_is_built_within_them() -> None:
    graph, device = sn.load("zoo:digits").graph, sn.host_device(1)
    candidates = enumerate_candidates(graph, device)
    profile = made_up.with_views(candidates.all(), device, 1)
    free = select(graph, candidates, profile, device)
    limits = Limits(weights_bytes=0.8 * free.resources["weights_bytes"], workspace_bytes=1 << 14)
    plan = select(graph, candidates, profile, device, limits=limits)
    memory = emit(graph, plan, device).memory
    assert memory["weights_bytes"] <= limits.given["weights_bytes"]
    assert memory["workspace_bytes"] <= limits.given["workspace_bytes"]
    assert plan.predicted_s > free.predicted_s
