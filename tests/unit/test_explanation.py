"""Why a plan is as it is: the numbers, the sentences, and `explain`."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from softneuro_tvm.cli.explain import explain
from softneuro_tvm.cli.plan_tables import comparison_lines, need_lines
from softneuro_tvm.descriptor import parse
from softneuro_tvm.errors import SoftNeuroError
from softneuro_tvm.explanation import (
    adapter_sentences,
    candidate_text,
    choice_text,
    layer_sentence,
    layout_sentences,
    other_routines,
    with_routine,
)
from softneuro_tvm.formats import Format
from softneuro_tvm.plan import Alternative, Plan
from tests.support.plans import adapter, alternative, choice, plan

PLAN = plan(
    choice("conv1", "conv2d/stem", "NCHW16c", 0.1, reads="NCHW", inputs=("x",), outputs=("conv1",)),
    choice(
        "conv2",
        "conv2d/winograd",
        "NCHW16c",
        0.21,
        alternative("conv2d/direct", "NCHW16c", 0.32, 0.9, spread=0.02),
        alternative("conv2d/direct", "NHWC", 0.2, 0.63),
        alternative("conv2d/winograd", "NCHW8c", 0.22, 0.61),
        alternative("conv2d/im2col", "NCHW", 0.5, 1.1, measured=False),
        params={"m": 4},
        inputs=("conv1",),
        outputs=("conv2",),
        rejected=(("conv2d/strassen", "no memory"),),
    ),
    adapters=[adapter("conv2", "NCHW16c", "NCHW", 0.29)],
    comparison={"greedy": 7e-4, "single_layout:NHWC": 7.5e-4, "single_layout:NCHW16c": 6e-4},
)
"""Takes 0.6 ms in all."""


def sentence(other: Alternative, **changes: object) -> str:
    """What is said of a choice of 0.21 ms with one alternative, in a network of 0.6 ms."""
    changed = dataclasses.replace(PLAN.layers[1], alternatives=(other,), **changes)  # type: ignore[arg-type]
    return layer_sentence(PLAN, changed)


def test_candidates_are_named_as_one_says_them() -> None:
    assert candidate_text("cpu:float32:nchw16c/winograd/m=4,rows=2") == "winograd m=4 in NCHW16c"
    assert candidate_text("cpu:float32:nhwc/bands/rows=2 covers a+b") == "bands in NHWC (covers a+b)"
    assert choice_text(PLAN.layers[0]) == "stem from NCHW to NCHW16c"
    assert choice_text(PLAN.layers[1]) == "winograd m=4 in NCHW16c"


def test_each_other_routine_is_represented_by_its_best_plan() -> None:
    found = other_routines(PLAN, PLAN.layers[1])
    assert [(item.alternative.routine, item.alternative.plan_s) for item in found] == [
        ("conv2d/direct", 0.63e-3),
        ("conv2d/im2col", 1.1e-3),
    ]
    assert found[0].lost_s == pytest.approx(0.03e-3)
    assert found[0].own_s == pytest.approx(-0.01e-3)
    assert found[0].elsewhere_s == pytest.approx(0.04e-3)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            alternative("conv2d/direct", "NCHW16c", 0.32, 0.9),
            "winograd m=4 in NCHW16c takes 0.21 ms. The next best routine, direct in NCHW16c, takes 0.32 ms itself and "
            "would make the whole network 0.3 ms slower: 0.11 ms by itself, 0.19 ms in conversions and in other layers "
            "that would have to adapt.",
        ),
        (
            alternative("conv2d/direct", "NHWC", 0.2, 0.63),
            "takes 0.2 ms itself and would make the whole network 0.03 ms slower: it is 0.01 ms faster, but "
            "conversions and other layers would take 0.04 ms longer.",
        ),
        (alternative("conv2d/direct", "NCHW", 0.31, 0.7), "the whole network 0.1 ms slower."),
        (alternative("conv2d/direct", "NCHW", 0.31, 0.65), "0.1 ms by itself, of which 0.05 ms would be won back in"),
        (
            alternative("conv2d/direct", "NCHW", 0.21, 0.7),
            "slower: it is about as fast, but conversions and other layers",
        ),
        (alternative("conv2d/direct", "NCHW", 0.25, 0.6), "and the whole network would take as long."),
        (alternative("conv2d/direct", "NCHW", 0.25, math.inf), "fits into no plan"),
        (
            alternative("conv2d/direct", "NCHW", 0.3, 0.69, measured=False),
            "direct in NCHW, was not measured: it takes at least 0.3 ms and would make the whole network at least 0.09 "
            "ms slower",
        ),
        (
            alternative("conv2d/direct", "NCHW", 0.1, 0.5),
            "takes 0.1 ms itself and would make the whole network 0.1 ms faster, but not within the limits.",
        ),
        (
            alternative("conv2d/direct", "NCHW", 0.1, 0.5, measured=False),
            "it takes at least 0.1 ms and might make the whole network up to 0.1 ms faster.",
        ),
        (
            alternative("conv2d/direct", "NCHW", 0.22, 0.61, spread=0.1),
            "0.01 ms slower (less than the spread of these measurements).",
        ),
        (
            alternative("conv2d/winograd", "NCHW8c", 0.31, 0.7),
            "No other routine applies; its next best setting, winograd",
        ),
    ],
)
def test_a_sentence_says_where_a_loss_comes_from(other: Alternative, said: str) -> None:
    assert said in sentence(other)


def test_without_alternatives_failures_are_counted() -> None:
    assert layer_sentence(PLAN, PLAN.layers[0]).endswith("takes 0.1 ms. Nothing else applies.")
    alone = dataclasses.replace(PLAN.layers[1], alternatives=())
    assert layer_sentence(PLAN, alone).endswith("Nothing else applies, 1 candidate(s) failed.")


def test_covers_are_not_compared_with_the_last_of_their_layers() -> None:
    other = alternative("conv2d/direct", "NCHW16c", 0.1, 0.7)
    found = sentence(other, covers=("a", "b"), layer="a+b")
    assert "computes these 2 layers at once in 0.21 ms" in found
    assert found.endswith("takes 0.1 ms and would make the whole network 0.1 ms slower.")
    covering = dataclasses.replace(other, descriptor=f"{other.descriptor} covers a+b")
    assert "direct in NCHW16c (covers a+b), takes 0.1 ms and would" in sentence(covering)


def test_adapters_and_layouts() -> None:
    assert list(adapter_sentences(PLAN)) == [
        "1 adapter(s) take 0.29 ms (48.3% of the network):",
        "  conv2 from NCHW16c to NCHW, 0.29 ms, between conv2 and the output",
    ]
    reader = choice("relu", "elementwise/fused", "NCHW", 0.1, inputs=("conv2",), outputs=("y",))
    longer = dataclasses.replace(PLAN, layers=(*PLAN.layers, reader))
    assert list(adapter_sentences(longer))[1].endswith("between conv2 and relu")
    assert list(adapter_sentences(plan(reader))) == ["No adapters: every layer reads what the one before it writes."]
    assert list(layout_sentences(PLAN)) == [
        "With NCHW16c wherever possible the network would take as long.",
        "With NHWC wherever possible the network would take 0.75 ms, 0.15 ms (25.0%) more.",
    ]


def test_needs_limits_and_restrictions() -> None:
    assert list(need_lines(PLAN)) == []
    needs = {"memory_bytes": 2.5e6, "accuracy": 1.5e-6}
    restrictions = {"restrictions": {"force": ["cpu/direct@conv1"], "forbid": [], "routine": ["cpu:nchw"]}}
    limited = dataclasses.replace(PLAN, resources=needs, limits={"memory_bytes": 3e6}, tuning=restrictions)
    assert list(need_lines(limited)) == [
        "activations 2.5 MB (limit 3.0 MB), sum of relative errors 1.5e-06",
        "restricted by --force cpu/direct@conv1 --routine cpu:nchw",
    ]


def test_where_a_routine_was_an_option() -> None:
    chosen = list(with_routine(PLAN, parse("cpu:nchw16c")))
    assert [(item.layer, found) for item, found in chosen] == [("conv1", None), ("conv2", None)]
    (item, found), *more = with_routine(PLAN, parse("cpu/direct"))
    assert item.layer == "conv2" and not more
    assert found is not None and found.alternative.plan_s == 0.63e-3
    assert list(with_routine(PLAN, parse("cpu/winograd/m=6"))) == []


app = typer.Typer()
app.command()(explain)


def run(plan_file: Path, *options: str) -> Any:
    return CliRunner().invoke(app, [str(plan_file), *options])


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    odd = dataclasses.replace(PLAN.layers[0], layer="conv[1]")
    dataclasses.replace(PLAN, layers=(odd, *PLAN.layers[1:])).save(tmp_path / "p.json")
    return tmp_path / "p.json"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), ("conv[1]", "direct in NHWC", "0.0300", "NHWC wherever possible")),
        (
            ("--why",),
            ("conv[1]: stem from NCHW", "The next best routine, direct in NHWC,", "1 adapter(s) take 0.29 ms"),
        ),
        (("--layer", "conv2"), (">= 0.500", "not measured", "network +0.0300 ms", "rejected: no memory")),
        (("--layer", "*2"), ("conv2: winograd m=4",)),
        (("--routine", "direct"), ("direct in NHWC", "0.0300", "Losses do not add up")),
        (("--routine", "cpu/winograd/m=4"), ("chosen",)),
    ],
)
def test_explain(plan_file: Path, options: tuple[str, ...], said: tuple[str, ...]) -> None:
    done = run(plan_file, *options)
    assert done.exit_code == 0, done.output
    for text in said:
        assert text in done.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--layer", "conv3"), "did you mean conv2"),
        (
            ("--routine", "winogard"),
            "'winogard' was no option for any layer; options were conv2d/direct, conv2d/im2col",
        ),
        (("--routine", "cpu/"), "routine descriptor 'cpu/'"),
    ],
)
def test_explain_refuses_what_is_not_there(plan_file: Path, options: tuple[str, ...], said: str) -> None:
    with pytest.raises(SoftNeuroError) as caught:
        CliRunner().invoke(app, [str(plan_file), *options], catch_exceptions=False)
    assert said in str(caught.value)


def test_explain_as_json_is_complete(plan_file: Path) -> None:
    whole = Plan.load(plan_file)
    infinite = dataclasses.replace(whole.layers[1].alternatives[0], plan_s=math.inf)
    changed = dataclasses.replace(whole.layers[1], alternatives=(*whole.layers[1].alternatives[1:], infinite))
    dataclasses.replace(whole, layers=(whole.layers[0], changed)).save(plan_file)
    done = run(plan_file, "--json", "--routine", "direct")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(done.output, parse_constant=refuse)
    second = found["layers"][1]
    assert [other["routine"] for other in second["other_routines"]] == ["conv2d/direct", "conv2d/im2col"]
    assert second["other_routines"][0]["lost_s"] == pytest.approx(0.03e-3)
    assert second["other_routines"][1]["measured"] is False
    assert second["alternatives"][-1]["plan_s"] is None
    assert second["text"].startswith("winograd m=4 in NCHW16c takes")
    assert second["reads"] == ["conv1"]
    assert found["routine"]["layers"][0]["layer"] == "conv2"
    assert {"resources", "limits", "pareto", "tuning", "samples_s", "device"} <= set(found)
    assert Format(found["adapters"][0]["target"]) == Format("NCHW")


def test_networks_that_take_no_time_are_described() -> None:
    comparison = {"greedy": 2e-3, "single_layout:NHWC": 1e-3, "single_layout:NCHW": 0.0}
    found = plan(choice("only", "reshape/view", "NCHW", 0.0), comparison=comparison)
    lines = list(comparison_lines(found, [2e-6, 1e-6, 3e-6]))
    assert lines[0].startswith("predicted") and lines[1] == "measured  0.0020 ms; fastest run 0.0010 ms"
    assert not any("(" in line for line in lines[1:])
    assert list(layout_sentences(found)) == [
        "With NCHW wherever possible the network would take as long.",
        "With NHWC wherever possible the network would take 1 ms, 1 ms more.",
    ]


def test_another_layout_may_have_the_least_predicted_time() -> None:
    found = plan(choice("only", "conv2d/direct", "NCHW", 2.0), comparison={"single_layout:NHWC": 1.5e-3})
    (sentence,) = layout_sentences(found)
    assert sentence == "With NHWC wherever possible the network would take 1.5 ms, 0.5 ms (25.0%) less."
