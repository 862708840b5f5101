"""Enumeration and the registry, on graphs made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from softneuro_tvm import registry
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.device import Device, vector_unit
from softneuro_tvm.errors import RoutineError
from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.layers.conv2d import Conv2dAttributes

AVX2 = Device("test", {"kind": "llvm", "mcpu": "haswell"}, vector_lanes=8, vector_registers=16, fma=True)


def two_convolutions() -> Graph:
    tensors = {name: TensorType((1, 16, 8, 8)) for name in ("x", "y", "z")}
    weights = {"weight": np.ones((16, 16, 3, 3), "float32"), "bias": np.zeros(16, "float32")}
    attributes = Conv2dAttributes(padding=(1, 1, 1, 1))
    layers = [Layer(f"conv_{o}", "conv2d", attributes, (i,), (o,), weights) for i, o in (("x", "y"), ("y", "z"))]
    return Graph(tuple(layers), tensors, ("x",), ("z",))


def test_equal_layers_are_enumerated_once() -> None:
    graph = two_convolutions()
    found = enumerate_candidates(graph, AVX2)
    kinds = [workload.kind for workload in found.by_workload]
    assert kinds.count("conv2d") == 1
    assert set(kinds) == {"conv2d", "layout_cast"}
    names = {candidate.routine.name for candidate in found.by_workload[graph.workloads["conv_y"]]}
    assert {"conv2d/direct", "conv2d/winograd"} <= names
    assert "default/te" not in names


def test_refusals_say_why() -> None:
    graph = two_convolutions()
    refused = dict(enumerate_candidates(graph, AVX2).refusals[graph.workloads["conv_y"]])
    assert refused["conv2d/depthwise"].startswith("needs ")
    assert refused["default/te"] == "is a last resort, and other routines apply"


def test_last_resorts_are_added_on_demand() -> None:
    graph = two_convolutions()
    workload = graph.workloads["conv_y"]
    found = enumerate_candidates(graph, AVX2, last_resorts=[workload])
    assert "default/te" in {candidate.routine.name for candidate in found.by_workload[workload]}


def test_an_unknown_routine_gets_a_hint() -> None:
    with pytest.raises(RoutineError, match="did you mean conv2d/winograd"):
        registry.routine("conv2d/winogard")


def test_routines_are_named_by_their_path_and_have_sources() -> None:
    for name, routine in registry.routines().items():
        assert routine.name == name
        assert routine.source
        assert type(routine).__doc__
        assert all(requirement.text for requirement in routine.requirements)


@pytest.mark.parametrize(
    ("features", "machine", "expected"),
    [
        ({"avx512f", "avx2", "fma"}, "x86_64", (16, 32, True)),
        ({"avx", "avx2", "fma"}, "x86_64", (8, 16, True)),
        ({"avx"}, "x86_64", (8, 16, False)),
        ({"sse2"}, "x86_64", (4, 16, False)),
        ({"asimd"}, "aarch64", (4, 32, True)),
    ],
)
def test_vector_unit(features: set[str], machine: str, expected: tuple[int, int, bool]) -> None:
    assert vector_unit(frozenset(features), machine) == expected


def test_a_source_hash_covers_imported_helpers_and_nothing_else() -> None:
    sources = registry._sources("softneuro_tvm.routines.conv2d.winograd")
    assert any("class Kernel" in source for source in sources)  # routines/_tir.py, imported by a helper's helper
    assert any("def winograd_matrices" in source for source in sources)
    assert not any("class Depthwise" in source for source in sources)
