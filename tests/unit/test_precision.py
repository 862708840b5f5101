"""Mixed precision: float16 candidates by permission only, casts between element types, where they are counted."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest

from softneuro_tvm import zoo
from softneuro_tvm.candidates import Candidates, adapter_workload, enumerate_candidates, usable_precision
from softneuro_tvm.descriptor import parse
from softneuro_tvm.devices import load_device
from softneuro_tvm.errors import DescriptorError, VerificationError
from softneuro_tvm.explanation import adapter_sentences, candidate_text
from softneuro_tvm.formats import Format, TensorType
from softneuro_tvm.graph import Graph
from softneuro_tvm.importer import import_model
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.pipeline import Model
from softneuro_tvm.plan import Plan
from softneuro_tvm.registry import layer_kind
from softneuro_tvm.restrictions import Restrictions
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection import Limits, select
from softneuro_tvm.verification import tolerance, verify

DEVICE = load_device("cortex-a76", 1)
PLAIN = load_device("cortex-a72", 1)
HALF = "float16"


@pytest.fixture(scope="module")
def graph() -> Graph:
    return import_model(zoo.model("digits"))


@pytest.fixture(scope="module")
def mixed(graph: Graph) -> Candidates:
    return enumerate_candidates(graph, DEVICE, precision="mixed")


def is_half(option: Candidate) -> bool:
    return any(port.dtype == HALF for port in (*option.variant.inputs, *option.variant.outputs))


def profile(candidates: Candidates, half_s: float, cast_s: float) -> dict[Candidate, Measurement]:
    """Every layer takes 10 microseconds, less in float16; errors as they are typical."""
    found = {}
    for option in candidates.all():
        seconds = half_s if is_half(option) else 1e-5
        if option.workload.kind in ("dtype_cast", "layout_cast"):
            seconds = cast_s
        found[option] = Measurement("ok", (seconds,), 1e-3 if is_half(option) else 1e-6)
    return found


def types_of(plan: Plan) -> set[str]:
    return {choice.variant.outputs[0].dtype for choice in plan.layers}


def test_float16_needs_permission_and_the_arithmetic(graph: Graph, mixed: Candidates) -> None:
    plain = enumerate_candidates(graph, DEVICE)
    assert not any(map(is_half, plain.all()))
    assert all(workload.kind != "dtype_cast" for workload in plain.by_workload)
    assert [o for o in mixed.all() if not is_half(o) and o.workload in plain.by_workload] == list(plain.all())
    kinds = {option.workload.kind for option in mixed.all() if is_half(option)}
    assert {"conv2d", "dense", "dtype_cast"} <= kinds
    assert not any(map(is_half, enumerate_candidates(graph, PLAIN, precision="mixed").all()))
    assert (usable_precision("mixed", DEVICE), usable_precision("mixed", PLAIN)) == ("mixed", "float32")


def test_casts_appear_where_types_meet(graph: Graph, mixed: Candidates) -> None:
    plan = select(graph, mixed, profile(mixed, half_s=2e-6, cast_s=1e-6), DEVICE)
    assert HALF in types_of(plan)
    first, last = plan.layers[0], plan.layers[-1]
    assert any(a.tensor == graph.inputs[0] and a.target == first.variant.inputs[0] for a in plan.adapters)
    assert first.variant.inputs[0].dtype == HALF
    assert [a.target.dtype for a in plan.adapters if a.tensor == graph.outputs[0]] == (
        ["float32"] if last.variant.outputs[0].dtype == HALF else []
    )
    casts = [adapter for adapter in plan.adapters if adapter.source.dtype != adapter.target.dtype]
    assert casts and {adapter.routine for adapter in casts} == {"dtype_cast/converted"}
    assert any("float16" in sentence for sentence in adapter_sentences(plan))
    assert Plan.from_json(plan.to_json()) == plan


def test_dear_casts_keep_float32(graph: Graph, mixed: Candidates) -> None:
    plan = select(graph, mixed, profile(mixed, half_s=9e-6, cast_s=1e-3), DEVICE)
    assert types_of(plan) == {"float32"}
    assert math.isclose(plan.predicted_s, sum(c.median_s for c in (*plan.layers, *plan.adapters)))


def test_the_error_limit_bounds_float16(graph: Graph, mixed: Candidates) -> None:
    measured = profile(mixed, half_s=2e-6, cast_s=0.0)
    free = select(graph, mixed, measured, DEVICE)
    limited = select(graph, mixed, measured, DEVICE, limits=Limits(accuracy=2.5e-3))
    assert free.resources["accuracy"] > 2.5e-3 >= limited.resources["accuracy"]
    assert free.predicted_s < limited.predicted_s
    assert HALF in types_of(limited)


def test_descriptors_name_the_element_type(graph: Graph, mixed: Candidates) -> None:
    rules = Restrictions(graph, mixed, routine=["cpu:float16"])
    kept = rules.candidates(mixed)
    for layer in graph.layers:
        options = kept.by_workload[graph.workloads[layer.name]]
        could = any(map(is_half, mixed.by_workload[graph.workloads[layer.name]]))
        assert all(map(is_half, options)) == could
    option = next(o for o in mixed.all() if is_half(o) and o.workload.kind == "conv2d")
    assert parse(option.descriptor).dtype == HALF
    assert candidate_text(option.descriptor).endswith("float16")


def test_adapters_by_what_differs() -> None:
    tensor = TensorType((1, 16, 4, 4))
    blocked, half = Format("NCHW4c"), Format("NCHW8c", HALF)
    assert adapter_workload(tensor, Format("NCHW"), blocked).kind == "layout_cast"
    cast = adapter_workload(tensor, blocked, half)
    assert (cast.kind, cast.inputs[0].dtype, cast.outputs[0].dtype) == ("dtype_cast", "float32", HALF)
    within = adapter_workload(tensor, half, Format("NHWC", HALF))
    assert (within.kind, within.inputs[0].dtype) == ("layout_cast", HALF)


def test_verification_allows_what_float16_declares(graph: Graph, mixed: Candidates) -> None:
    half = select(graph, mixed, profile(mixed, half_s=2e-6, cast_s=1e-6), DEVICE)
    single = select(graph, mixed, profile(mixed, half_s=1e-3, cast_s=1e-6), DEVICE)
    assert tolerance(single, graph) < 1e-3 < tolerance(half, graph) < 0.1


def test_a_device_without_float16_is_told_so(caplog: pytest.LogCaptureFixture, tmp_path: object) -> None:
    from softneuro_tvm import pipeline

    device = replace(pipeline.host_device(1), features=frozenset())
    model = pipeline.load("zoo:digits")
    options = pipeline.TuneOptions(precision="mixed", locked=True)
    with caplog.at_level(logging.WARNING), pytest.raises(Exception, match="measure"):
        pipeline.tune(model, device=device, store=f"{tmp_path}/store.sqlite", options=options)
    lines = [record.getMessage() for record in caplog.records if "float16" in record.getMessage()]
    assert len(lines) == 1 and "float32" in lines[0]


def test_weights_are_packed_as_float16(mixed: Candidates) -> None:
    options = [o for o in mixed.all() if is_half(o) and o.workload.weights]
    for option in {o.routine.name: o for o in options}.values():
        _, weights = layer_kind(option.workload.kind).sample(option.workload)
        packed = option.routine.pack(option.workload, option.variant, weights)
        assert {array.dtype for array in packed} == {np.dtype(HALF)}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}, True),
        ({"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"}, False),
        ({"mtriple": "aarch64-linux-gnu", "mcpu": "generic", "mattr": ["+fullfp16"]}, True),
        ({"mtriple": "x86_64-linux-gnu", "mcpu": "sapphirerapids"}, True),
        ({"mtriple": "x86_64-linux-gnu", "mcpu": "znver5"}, False),
    ],
)
def test_targets_say_whether_they_have_float16(target: dict[str, object], expected: bool) -> None:
    assert load_device(json.dumps({"kind": "llvm", **target})).has_float16 == expected
    assert load_device("raspberry-pi-5").has_float16 and not load_device("raspberry-pi-4").has_float16


def test_float16_without_permission_is_explained(graph: Graph) -> None:
    with pytest.raises(DescriptorError, match="--precision mixed"):
        Restrictions(graph, enumerate_candidates(graph, DEVICE), routine=["cpu:float16"])


def test_a_network_too_sensitive_for_float16_is_told_what_to_do(graph: Graph, mixed: Candidates) -> None:
    plan = select(graph, mixed, profile(mixed, half_s=2e-6, cast_s=1e-6), DEVICE)

    class Wrong:
        def tensors(self, shapes: object, inputs: object) -> list[np.ndarray]:
            return []

        def run(self, inputs: object) -> list[np.ndarray]:
            return [np.full(graph.tensors[name].shape, 1e3, np.float32) for name in graph.outputs]

    with pytest.raises(VerificationError, match="--error-limit, or use --precision float32"):
        verify(Model(graph, "zoo:digits"), plan, Wrong())  # type: ignore[arg-type]
