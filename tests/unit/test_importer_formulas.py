"""Formulas that exporters write out are recognised, and only those."""

from __future__ import annotations

import math
from typing import Any

import pytest

from softneuro_tvm.importer.passes.activations import recognise_activations, simplified
from softneuro_tvm.importer.passes.layer_norms import recognise_layer_norms
from softneuro_tvm.layers.reduction import ReductionAttributes
from tests.support.graphs import Builder, assert_same, kinds

ROOT = math.sqrt(2)
FORMULAS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "relu": ([("maximum", ("x0", 0.0))], ("relu", ("x0",))),
    "relu6": ([("maximum", (0.0, "x0")), ("minimum", ("t0", 6.0))], ("clip", ("x0", 0.0, 6.0))),
    "clip": ([("maximum", ("x0", -1.0)), ("minimum", (2.0, "t0"))], ("clip", ("x0", -1.0, 2.0))),
    "square": ([("pow", ("x0", 2.0))], ("square", ("x0",))),
    "sigmoid": (
        [("neg", ("x0",)), ("exp", ("t0",)), ("add", (1.0, "t1")), ("div", (1.0, "t2"))],
        ("sigmoid", ("x0",)),
    ),
    "sigmoid by reciprocal": (
        [("mul", ("x0", -1.0)), ("exp", ("t0",)), ("add", ("t1", 1.0)), ("reciprocal", ("t2",))],
        ("sigmoid", ("x0",)),
    ),
    "silu": ([("sigmoid", ("x0",)), ("mul", ("t0", "x0"))], ("silu", ("x0",))),
    "hard sigmoid of ONNX": (
        [("mul", (0.2, "x0")), ("add", ("t0", 0.5)), ("clip", ("t1", 0.0, 1.0))],
        ("hard_sigmoid", ("x0", 0.2, 0.5)),
    ),
    "hard sigmoid of Torch": (
        [("add", ("x0", 3.0)), ("clip", ("t0", 0.0, 6.0)), ("div", ("t1", 6.0))],
        ("hard_sigmoid", ("x0", 1 / 6, 0.5)),
    ),
    "falling hard sigmoid": (
        [("mul", ("x0", 0.2)), ("sub", (0.5, "t0")), ("clip", ("t1", 0.0, 1.0))],
        ("hard_sigmoid", ("x0", -0.2, 0.5)),
    ),
    "hard swish, gate first": (
        [("add", ("x0", 3.0)), ("clip", ("t0", 0.0, 6.0)), ("div", ("t1", 6.0)), ("mul", ("x0", "t2"))],
        ("hard_swish", ("x0",)),
    ),
    "hard swish, product first": (
        [("add", ("x0", 3.0)), ("clip", ("t0", 0.0, 6.0)), ("mul", ("x0", "t1")), ("div", ("t2", 6.0))],
        ("hard_swish", ("x0",)),
    ),
    "gelu, half last": (
        [
            ("div", ("x0", ROOT)),
            ("erf", ("t0",)),
            ("add", ("t1", 1.0)),
            ("mul", ("x0", "t2")),
            ("mul", ("t3", 0.5)),
        ],
        ("gelu", ("x0",)),
    ),
    "gelu, half first": (
        [
            ("mul", (0.5, "x0")),
            ("mul", ("x0", 1 / ROOT)),
            ("erf", ("t1",)),
            ("add", (1.0, "t2")),
            ("mul", ("t0", "t3")),
        ],
        ("gelu", ("x0",)),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_are_recognised(name: str) -> None:
    expression, (operator, args) = FORMULAS[name]
    b = Builder(x=(3, 40))
    b.each("y", expression, "x")
    graph = b.graph("y")
    short = recognise_activations(graph)
    ((found, found_args),) = short.layers[0].attributes.expression
    assert found == operator
    assert found_args[0] == args[0] and found_args[1:] == pytest.approx(args[1:])
    assert_same(graph, short)


@pytest.mark.parametrize(
    "expression",
    [
        [("sigmoid", ("x0",)), ("mul", ("t0", "x1"))],
        [("sigmoid", ("x0",)), ("mul", ("t0", "x0")), ("mul", ("t0", "t1"))],
        [("add", ("x0", 3.0)), ("clip", ("t0", 0.0, 6.0)), ("mul", ("x0", "t1")), ("div", ("t2", 5.0))],
        [("add", ("x0", 2.0)), ("clip", ("t0", 0.0, 6.0)), ("div", ("t1", 6.0)), ("mul", ("x0", "t2"))],
        [("erf", ("x0",)), ("add", ("t0", 1.0)), ("mul", ("x0", "t1")), ("mul", ("t2", 0.5))],
        [("maximum", ("x0", 3.0)), ("minimum", ("t0", 2.0))],
        [("exp", ("x0",)), ("add", ("t0", 1.0)), ("div", (1.0, "t1"))],
        [("clip", ("x0", 0.0, 1.0)), ("mul", ("t0", -1.0)), ("add", ("t1", 1.0))],
        [("neg", ("x0",)), ("exp", ("t0",)), ("add", ("t1", 2.0)), ("div", (1.0, "t2"))],
        [("mul", ("x0", 2.0)), ("sigmoid", ("x0",)), ("mul", ("t0", "t1"))],
    ],
)
def test_near_misses_keep_their_meaning(expression: Any) -> None:
    b = Builder(x=(3, 40), z=(3, 40))
    b.each("y", expression, "x", "z")
    graph = b.graph("y")
    assert {op for op, _ in simplified(tuple(expression))}.isdisjoint({"hard_swish", "gelu"})
    assert_same(graph, recognise_activations(graph))


def norm(
    b: Builder, x: str, axes: tuple[int, ...], inverse: bool = False, means: tuple[int, ...] = ()
) -> tuple[str, str]:
    b.add("mean", ReductionAttributes("mean", means or axes, True), x)
    b.each("centred", [("sub", ("x0", "x1"))], x, "mean")
    b.each("square", [("mul", ("x0", "x0")) if inverse else ("pow", ("x0", 2.0))], "centred")
    b.add("variance", ReductionAttributes("mean", axes, True), "square")
    power = ("pow", ("t0", -0.5)) if inverse else ("sqrt", ("t0",))
    b.each("root", [("add", ("x0", 1e-3)), power], "variance")
    return "centred", "root"


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("axes", [(2,), (1, 2)])
def test_layer_norm_is_recognised(inverse: bool, axes: tuple[int, ...]) -> None:
    b = Builder(x=(2, 5, 6))
    inputs = norm(b, "x", axes, inverse)
    quotient = ("mul", ("x1", "x0")) if inverse else ("div", ("x0", "x1"))
    shape = (1, 1, 6) if axes == (2,) else (1, 5, 6)
    steps = [quotient, ("mul", ("t0", "w0")), ("add", ("w1", "t1")), ("relu", ("t2",))]
    b.each("y", steps, *inputs, w0=b.normal(*shape), w1=b.normal(1, 1, 6))
    graph = b.graph("y")
    short = recognise_layer_norms(recognise_activations(graph))
    assert kinds(short) == ["elementwise", "layer_norm"]
    assert short.layers[0].attributes.epsilon == 1e-3 and short.layers[0].inputs == ("x",)
    assert_same(graph, short)


def test_layer_norm_without_gamma_and_beta() -> None:
    b = Builder(x=(2, 5, 6))
    b.each("y", [("div", ("x0", "x1"))], *norm(b, "x", (2,)))
    graph = b.graph("y")
    short = recognise_layer_norms(recognise_activations(graph))
    assert kinds(short) == ["layer_norm"]
    assert_same(graph, short)


@pytest.mark.parametrize("change", ["axes", "means", "quotient", "shared", "both shared", "source"])
def test_near_layer_norms_keep_their_meaning(change: str) -> None:
    b = Builder(x=(2, 5, 6), z=(2, 5, 6))
    centred, root = norm(b, "x", (1,) if change == "axes" else (2,), means=(1, 2) if change == "means" else ())
    steps: list[Any] = [("div", ("x1", "x0") if change == "quotient" else ("x0", "x1"))]
    if change == "shared":
        steps.append(("add", ("t0", "x0")))
    if change == "both shared":
        steps += [("mul", ("x0", "x1")), ("sub", ("t0", "t1"))]
    b.each("y", steps, "z" if change == "source" else centred, root)
    graph = b.graph("y")
    short = recognise_layer_norms(recognise_activations(graph))
    assert "layer_norm" not in kinds(short)
    assert_same(graph, short)
