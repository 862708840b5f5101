"""The passes keep what any graph computes."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.passes import optimise
from softneuro_tvm.layers.concat import ConcatAttributes
from softneuro_tvm.layers.conv2d import Conv2dAttributes
from softneuro_tvm.layers.elementwise import ElementwiseAttributes
from softneuro_tvm.layers.reduction import ReductionAttributes
from softneuro_tvm.layers.reshape import ReshapeAttributes
from softneuro_tvm.layers.slice import SliceAttributes
from softneuro_tvm.layers.transpose import TransposeAttributes
from softneuro_tvm.reference import evaluate
from softneuro_tvm.registry import layer_kind

SHAPE = (2, 4, 3, 3)
C = SHAPE[1]
UNARY: list[tuple[str, tuple[Any, ...]]] = [
    ("relu", ("x0",)),
    ("sigmoid", ("x0",)),
    ("tanh", ("x0",)),
    ("neg", ("x0",)),
    ("clip", ("x0", 0.0, 6.0)),
    ("maximum", ("x0", 0.0)),
    ("minimum", (6.0, "x0")),
    ("add", ("x0", 3.0)),
    ("sub", (0.5, "x0")),
    ("mul", ("x0", 0.5)),
    ("div", ("x0", 6.0)),
    ("square", ("x0",)),
    ("erf", ("x0",)),
]
BINARY = ("add", "mul", "sub")
STEPS = ("conv", "unary", "binary", "channel", "gate", "concat", "shuffle", "swap", "flat")
PLANS = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 63), st.integers(0, 63)), min_size=1, max_size=14)


class Network:
    """A graph whose tensors all have the same shape at the end of each step."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.layers: list[Layer] = []
        self.tensors = {"x": TensorType(SHAPE), "z": TensorType(SHAPE)}
        self.pool = ["x", "z"]

    def add(self, kind: str, attributes: Any, *inputs: str, **weights: np.ndarray) -> str:
        name = f"{kind}_{len(self.layers)}"
        types = {key: TensorType(value.shape) for key, value in weights.items()}
        found = layer_kind(kind).output_types(attributes, [self.tensors[i] for i in inputs], types)
        self.tensors[name] = found[0]
        self.layers.append(Layer(name, kind, attributes, inputs, (name,), weights))
        return name

    def each(self, operator: str, args: tuple[Any, ...], *inputs: str, **weights: np.ndarray) -> str:
        return self.add("elementwise", ElementwiseAttributes(((operator, args),)), *inputs, **weights)

    def normal(self, *shape: int) -> np.ndarray:
        return (0.5 * self.rng.standard_normal(shape)).astype(np.float32)

    def step(self, kind: str, first: int, second: int) -> str:
        a, b = self.pool[first % len(self.pool)], self.pool[second % len(self.pool)]
        if kind == "conv":
            weights = {"weight": self.normal(C, C, 3, 3), "bias": self.normal(C)}
            return self.add("conv2d", Conv2dAttributes(padding=(1, 1, 1, 1)), a, **weights)
        if kind == "unary":
            return self.each(*UNARY[second % len(UNARY)], a)
        if kind == "binary":
            return self.each(BINARY[second % len(BINARY)], ("x0", "x1"), a, b)
        if kind == "channel":
            shape = [(1, C, 1, 1), (1, 1, 3, 1), SHAPE][second % 3]
            return self.each(BINARY[first % len(BINARY)], ("x0", "w0"), a, w0=self.normal(*shape))
        if kind == "gate":
            mean = self.add("reduction", ReductionAttributes("mean", (2, 3), bool(second % 2)), a)
            gate = self.add("reshape", ReshapeAttributes((SHAPE[0], C, 1, 1)), mean)
            return self.each("mul", ("x0", "x1"), a, gate)
        if kind == "concat":
            whole = self.add("concat", ConcatAttributes(1), a, b, a)
            start = second % (2 * C)
            return self.add("slice", SliceAttributes((0, start, 0, 0), (2, start + C, 3, 3), (1, 1, 1, 1)), whole)
        if kind == "shuffle":
            whole = self.add("concat", ConcatAttributes(1), a, b)
            split = self.add("reshape", ReshapeAttributes((2, 2, C, 3, 3)), whole)
            swapped = self.add("transpose", TransposeAttributes((0, 2, 1, 3, 4)), split)
            joined = self.add("reshape", ReshapeAttributes((2, 2 * C, 3, 3)), swapped)
            halves = [(0, C), (C, 2 * C)]
            for begin, end in halves:
                part = SliceAttributes((0, begin, 0, 0), (2, end, 3, 3), (1, 1, 1, 1))
                self.pool.append(self.add("slice", part, joined))
            return self.pool.pop()
        if kind == "swap":
            return self.add("transpose", TransposeAttributes((0, 1, 3, 2)), a)
        flat = self.add("reshape", ReshapeAttributes((2, C, 3, 1, 3)), a)
        changed = self.each(*UNARY[second % len(UNARY)], flat)
        return self.add("reshape", ReshapeAttributes(SHAPE), changed)


@settings(max_examples=150)
@given(PLANS, st.sets(st.integers(0, 31), min_size=1, max_size=3))
def test_passes_keep_what_a_graph_computes(plan: list[tuple[str, int, int]], returned: set[int]) -> None:
    network = Network()
    for step in plan:
        network.pool.append(network.step(*step))
    outputs = tuple(dict.fromkeys(network.pool[index % len(network.pool)] for index in sorted(returned)))
    graph = Graph(tuple(network.layers), network.tensors, ("x", "z"), outputs)
    short = optimise(graph)
    rng = np.random.default_rng(1)
    inputs = {name: rng.standard_normal(SHAPE) for name in ("x", "z")}
    wanted, found = evaluate(graph, inputs), evaluate(short, inputs)
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(value).max()))
    assert len(short.layers) <= len(graph.layers) + sum(step[0] in ("gate", "flat") for step in plan)
