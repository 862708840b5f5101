"""What-if: which candidates restrictions leave, and how impossible ones are refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from softneuro_tvm.activations import Activation
from softneuro_tvm.candidates import Candidates, enumerate_candidates
from softneuro_tvm.device import Device
from softneuro_tvm.errors import DescriptorError, RestrictionError
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.layers.conv2d import Conv2dAttributes
from softneuro_tvm.restrictions import Restrictions
from softneuro_tvm.routine import Candidate
from tests.support.graphs import Builder

AVX2 = Device("test", {"kind": "llvm", "mcpu": "haswell"}, vector_lanes=8, vector_registers=16, fma=True)
WHOLE, FRONT, BACK = "expand+depthwise+project", "expand+depthwise", "depthwise+project"


@cache
def example() -> tuple[Graph, Candidates]:
    """Two convolutions, and a block of three that can be computed at once, whole and in part."""
    b = Builder(x=(1, 8, 14, 14))
    b.conv("first", "x", 8)
    b.conv("second", "first", 8)
    one = Conv2dAttributes(activation=Activation("clip", 0.0, 6.0))
    b.add("expand", one, "second", weight=b.normal(24, 8, 1, 1), bias=b.normal(24))
    wide = Conv2dAttributes(padding=(1, 1, 1, 1), groups=24, activation=Activation("clip", 0.0, 6.0))
    b.add("depthwise", wide, "expand", weight=b.normal(24, 1, 3, 3), bias=b.normal(24))
    back = Conv2dAttributes(residual=True)
    b.add("project", back, "depthwise", "second", weight=b.normal(8, 24, 1, 1), bias=b.normal(8))
    b.each("sum", [("add", ("x0", "x1"))], "project", "first")
    graph = b.graph("sum")
    return graph, enumerate_candidates(graph, AVX2)


def restrict(**changes: Any) -> Restrictions:
    return Restrictions(*example(), **changes)


def named(name: str) -> Layer:
    graph, candidates = example()
    return next(layer for layer in (*graph.layers, *(c.layer for c in candidates.covers)) if layer.name == name)


def left(restrictions: Restrictions, name: str) -> list[Candidate]:
    """The candidates of a layer or composite that restrictions allow."""
    graph, candidates = example()
    return [c for c in candidates.by_workload[graph.workload(named(name))] if restrictions.allows(name, c)]


def algorithms(restrictions: Restrictions, name: str) -> set[str]:
    return {candidate.routine.name for candidate in left(restrictions, name)}


def everything(name: str) -> int:
    graph, candidates = example()
    return len(candidates.by_workload[graph.workload(named(name))])


def test_the_example_is_as_described() -> None:
    graph, candidates = example()
    assert [layer.name for layer in graph.layers] == ["first", "second", "expand", "depthwise", "project", "sum"]
    assert [cover.layer.name for cover in candidates.covers] == [WHOLE, FRONT, BACK]
    assert algorithms(restrict(), "first") == {f"conv2d/{name}" for name in ("direct", "im2col", "stem", "winograd")}


def test_without_restrictions_all_are_allowed() -> None:
    none = restrict()
    assert not none
    graph, candidates = example()
    assert all(len(left(none, layer.name)) == everything(layer.name) for layer in graph.layers)
    assert dict(none.candidates(candidates).by_workload) == dict(candidates.by_workload)


@pytest.mark.parametrize("layers", ["first", "0", "0..0", "fir*", '"first"', "f?r[rs]t"])
def test_a_force_holds_for_the_layers_named(layers: str) -> None:
    found = restrict(force=[f"cpu/winograd/m=4@{layers}"])
    assert left(found, "first")
    assert all(c.routine.name == "conv2d/winograd" and c.variant["m"] == 4 for c in left(found, "first"))
    assert len(left(found, "second")) == everything("second")
    assert len(left(found, WHOLE)) == everything(WHOLE)


@pytest.mark.parametrize("layers", ["first,second", "0..1", "[fs][ie][rc]*", "0,second"])
def test_a_force_on_several_layers(layers: str) -> None:
    found = restrict(force=[f"cpu/winograd@{layers}"])
    assert algorithms(found, "first") == algorithms(found, "second") == {"conv2d/winograd"}


def test_forces_on_one_layer_hold_together() -> None:
    found = restrict(force=["cpu/winograd@first", "cpu:nchw8c@0..1"])
    assert {c.descriptor.split("/")[0] for c in left(found, "first")} == {"cpu:float32:nchw8c"}
    assert algorithms(found, "first") == {"conv2d/winograd"}
    with pytest.raises(RestrictionError, match=r"nothing is left .* layer 'first' .*force cpu/winograd@first"):
        restrict(force=["cpu/winograd@first", "cpu/direct@first"])


def test_a_force_on_a_covered_layer_forbids_covers_that_hide_it() -> None:
    found = restrict(force=["cpu/depthwise@depthwise"])
    assert algorithms(found, "depthwise") == {"conv2d/depthwise"}
    assert not left(found, WHOLE) and not left(found, FRONT) and not left(found, BACK)
    found = restrict(force=["cpu/pointwise@expand"])
    assert not left(found, WHOLE) and not left(found, FRONT)
    assert len(left(found, BACK)) == everything(BACK)


def test_a_force_may_name_the_routine_of_covers() -> None:
    found = restrict(force=["cpu/bands@depthwise"])
    assert not left(found, "depthwise")
    assert all(len(left(found, name)) == everything(name) for name in (WHOLE, FRONT, BACK, "expand"))
    found = restrict(force=["cpu/bands@inverted_residual"])
    assert not any(left(found, name) for name in ("expand", "depthwise", "project"))
    assert all(len(left(found, name)) == everything(name) for name in (WHOLE, FRONT, BACK))


def test_a_force_on_a_composite_asks_for_exactly_this_cover() -> None:
    found = restrict(force=[f"cpu@{FRONT}"])
    assert len(left(found, FRONT)) == everything(FRONT)
    assert not any(left(found, name) for name in ("expand", "depthwise", WHOLE, BACK))
    assert len(left(found, "project")) == everything("project")
    with pytest.raises(RestrictionError, match="nothing is left"):
        restrict(force=[f"cpu@{FRONT}", f"cpu@{BACK}"])


def test_forbidding() -> None:
    found = restrict(forbid=["cpu/winograd", "cpu:nchw8c@second", f"cpu@{WHOLE}"])
    assert algorithms(found, "first") == {f"conv2d/{name}" for name in ("direct", "im2col", "stem")}
    assert {c.variant.outputs[0].layout for c in left(found, "first")} > {"NCHW8c"}
    assert "NCHW8c" not in {c.variant.outputs[0].layout for c in left(found, "second")}
    assert not left(found, WHOLE)
    assert left(found, FRONT) and left(found, "expand")
    found = restrict(forbid=["cpu@inverted_residual"])
    assert not any(left(found, name) for name in (WHOLE, FRONT, BACK))
    assert all(len(left(found, name)) == everything(name) for name in ("expand", "depthwise", "project"))


def test_forbidding_everything_names_the_layer() -> None:
    with pytest.raises(RestrictionError, match=r"nothing is left that may compute layer 'sum'.*forbid cpu@sum"):
        restrict(forbid=["cpu@sum"])
    assert restrict(forbid=["cpu/depthwise"])  # a cover computes the layer


def test_covers_that_only_overlap_do_not_compute_the_layers() -> None:
    with pytest.raises(RestrictionError, match=r"the layers 'expand', 'project' together with forbid .*, force .*"):
        restrict(force=["cpu/bands@expand,project"], forbid=[f"cpu@{WHOLE}"])


def test_a_routine_is_used_where_it_can_be() -> None:
    found = restrict(routine=["cpu/winograd"])
    assert algorithms(found, "first") == algorithms(found, "second") == {"conv2d/winograd"}
    assert all(len(left(found, name)) == everything(name) for name in ("expand", "sum", WHOLE))
    either = restrict(routine=["cpu/winograd", "cpu/direct"])
    assert algorithms(either, "first") == {"conv2d/winograd", "conv2d/direct"}
    one = restrict(routine=["cpu/winograd@first"])
    assert len(left(one, "second")) == everything("second")


def test_a_routine_is_not_hidden_by_covers() -> None:
    found = restrict(routine=["cpu/pointwise"])
    assert algorithms(found, "expand") == algorithms(found, "project") == {"conv2d/pointwise"}
    assert not any(left(found, name) for name in (WHOLE, FRONT, BACK))
    assert len(left(found, "depthwise")) == everything("depthwise")


def test_a_routine_of_covers_is_used_for_the_layers_it_can_cover() -> None:
    found = restrict(routine=["cpu/bands"])
    assert not any(left(found, name) for name in ("expand", "depthwise", "project"))
    assert all(len(left(found, name)) == everything(name) for name in (WHOLE, FRONT, BACK))
    assert len(left(found, "first")) == everything("first")


def test_a_routine_yields_to_forces() -> None:
    found = restrict(routine=["cpu/winograd"], force=["cpu/direct@first"])
    assert algorithms(found, "first") == {"conv2d/direct"}
    assert algorithms(found, "second") == {"conv2d/winograd"}
    covered = restrict(routine=["cpu/pointwise"], force=["cpu/bands@depthwise"])
    assert left(covered, WHOLE) and left(covered, FRONT) and left(covered, BACK)
    assert algorithms(covered, "expand") == {"conv2d/pointwise"}
    exact = restrict(routine=["cpu/bands"], force=[f"cpu@{FRONT}"])
    assert left(exact, FRONT) and left(exact, "project")
    other = restrict(force=["cpu/bands@expand"], forbid=[f"cpu@{WHOLE}"], routine=["cpu/bands@project"])
    assert left(other, FRONT) and len(left(other, "project")) == everything("project")
    with pytest.raises(RestrictionError, match="leave nothing of routine cpu/winograd"):
        restrict(routine=["cpu/winograd"], forbid=["cpu/winograd"])


def test_candidates_that_are_allowed_nowhere_are_dropped() -> None:
    graph, candidates = example()
    blocked = restrict(routine=["cpu:nchw8c"], forbid=["cpu/bands"])
    found = blocked.candidates(candidates)
    assert not found.covers
    assert set(found.by_workload) < set(candidates.by_workload)
    layouts = {
        port.layout
        for workload, options in found.by_workload.items()
        if workload.kind != "layout_cast"
        for option in options
        for port in option.variant.outputs
    }
    assert layouts == {"NCHW8c"}
    assert len(found.all()) < len(candidates.all()) / 2
    assert any(workload.kind == "layout_cast" for workload in found.by_workload)  # the input is NCHW
    # two equal layers share a workload: what either may use stays
    one = restrict(force=["cpu/winograd@first"]).candidates(candidates)
    assert dict(one.by_workload) == dict(candidates.by_workload)
    covered = restrict(force=[f"cpu@{WHOLE}"]).candidates(candidates)
    assert [cover.layer.name for cover in covered.covers] == [WHOLE]
    assert covered.by_workload[graph.workloads["depthwise"]] == ()


@pytest.mark.parametrize(
    ("changes", "column", "message"),
    [
        ({"force": ["cpu/winogard@first"]}, 4, "no algorithm 'winogard'; did you mean winograd or pooled_winograd?"),
        ({"force": ["cpu/winograd@2"]}, 4, "to layer 'expand': conv2d/winograd needs a kernel larger than its stride"),
        ({"force": ["cpu/winograd@sum"]}, 4, "conv2d/winograd computes conv2d layers. For it there is fused"),
        ({"force": ["cpu/winograd/m=5@first"]}, 13, "layer 'first' has m=5 and all that stands before it; m is"),
        ({"force": ["cpu/winograd/n=4@first"]}, 13, "winograd of layer 'first' has no parameter 'n'"),
        ({"force": ["cpu/winograd/row=4@first"]}, 13, "did you mean rows?"),
        (
            {"force": ["cpu:float16/winograd@first"]},
            4,
            "no candidate of layer 'first' writes 'float16'; there is float32",
        ),
        ({"force": ["cpu:nchw4c/winograd@first"]}, 11, "'winograd' does not apply"),
        ({"force": ["cpu:direct@first"]}, 4, "did you mean cpu/direct?"),
        ({"forbid": ["direct"]}, 0, "did you mean cpu/direct?"),
        ({"forbid": ["gpu"]}, 0, "no candidate of any layer runs on 'gpu'; there is cpu"),
        ({"routine": ["cpu/strassen"]}, 4, "'strassen' does not apply to any layer"),
        ({"forbid": ["cpu/direct@fist"]}, 11, "no layer 'fist', and no layer of such a kind; did you mean first?"),
        ({"forbid": ["cpu/direct@z*"]}, 11, "no layer's name fits 'z*'"),
        ({"forbid": ["cpu/direct@4..9"]}, 11, "there are no layers 4..9; the model has the layers 0..5"),
        ({"forbid": ["cpu/direct@2..1"]}, 11, "there are no layers 2..1"),
    ],
)
def test_impossible_restrictions_are_refused_at_the_place(changes: dict[str, Any], column: int, message: str) -> None:
    with pytest.raises(DescriptorError) as caught:
        restrict(**changes)
    assert message in str(caught.value)
    assert caught.value.position == column


def test_a_force_must_name_layers() -> None:
    with pytest.raises(RestrictionError, match="add @LAYERS"):
        restrict(force=["cpu/winograd"])


def test_names_that_could_mean_several_things_must_be_quoted() -> None:
    b = Builder(x=(1, 8, 14, 14))
    for before, name in (("x", "conv2d"), ("conv2d", "0"), ("0", "a,b")):
        b.conv(name, before, 8)
    graph = b.graph("a,b")
    candidates = enumerate_candidates(graph, AVX2)
    with pytest.raises(DescriptorError, match="'conv2d' is the name of a layer and of a layer kind"):
        Restrictions(graph, candidates, force=["cpu/direct@conv2d"])
    with pytest.raises(DescriptorError, match="'0' is the name of a layer and of a position"):
        Restrictions(graph, candidates, force=["cpu/direct@0"])
    direct = np.array([c.routine.name == "conv2d/direct" for c in candidates.by_workload[graph.workloads["0"]]])
    for text, forced in (('"conv2d"', [1, 0, 0]), ('"0"', [0, 1, 0]), ("0..0", [1, 0, 0]), ('"a,b"', [0, 0, 1])):
        found = Restrictions(graph, candidates, force=[f"cpu/direct@{text}"])
        for layer, wanted in zip(graph.layers, forced, strict=True):
            allowed = [found.allows(layer.name, c) for c in candidates.by_workload[graph.workloads[layer.name]]]
            np.testing.assert_array_equal(allowed, direct if wanted else np.ones_like(direct))
