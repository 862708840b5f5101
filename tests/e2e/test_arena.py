"""Activations in one arena: how much it takes, and that nothing is overwritten which somebody still reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import softneuro_tvm as sn
from softneuro_tvm.builder import build, emit
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.graph import Graph
from softneuro_tvm.layers.dense import DenseAttributes
from softneuro_tvm.reference import evaluate
from softneuro_tvm.selection import select
from tests.support import made_up
from tests.support.graphs import Builder

AGAIN = (("mul", ("x0", 3.0)), ("add", ("t0", 1.0)))
"""Gives something else when it is applied twice."""


def planned(graph: Graph, seed: int = 0, threads: int = 1) -> tuple[Any, Any]:
    device = sn.host_device(threads)
    candidates = enumerate_candidates(graph, device)
    return select(graph, candidates, made_up.profile(candidates.all(), seed), device), device


def run(module: Any, graph: Graph, seed: int) -> tuple[dict[str, np.ndarray], list[Any], list[Any]]:
    """Inputs, the tensors made of them, and the results as the virtual machine returns them."""
    rng = np.random.default_rng(seed)
    inputs = {name: rng.standard_normal(graph.tensors[name].shape).astype("float32") for name in graph.inputs}
    tensors = module.tensors([], inputs)
    result = module.runner(tensors)()
    return inputs, tensors, [result] if hasattr(result, "numpy") else list(result)


def assert_right(graph: Graph, inputs: dict[str, np.ndarray], results: list[Any]) -> None:
    expected = list(evaluate(graph, inputs).values())
    for found, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("name", ["digits", "shufflenet_v2", "densenet121", "unet", "bert_tiny"])
def test_little_more_than_the_lower_bound(name: str) -> None:
    graph = sn.load(f"zoo:{name}").graph
    plan, device = planned(graph)
    memory = emit(graph, plan, device).memory
    assert 0 < memory["lower_bound_bytes"] <= memory["arena_bytes"] <= 1.1 * memory["lower_bound_bytes"]
    assert memory["weights_bytes"] >= 0.9 * graph.weight_bytes


def branches() -> Graph:
    """Elementwise layers on inputs, on tensors that are read again, and on tensors that are returned."""
    b = Builder(x=(1, 16, 8, 8), z=(1, 16, 8, 8))
    first = b.each("first", AGAIN, "x")
    again = b.each("again", AGAIN, first)
    both = b.each("both", (("mul", ("x0", "x1")),), again, "z")
    conv = b.conv("conv", both, 16)
    total = b.each("total", (("add", ("x0", "x1")),), conv, both)
    last = b.each("last", AGAIN, total)
    flat = b.each("flat", AGAIN, last)
    return b.graph(total, flat)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_is_overwritten_that_is_still_read(seed: int, threads: int) -> None:
    graph = branches()
    plan, device = planned(graph, seed, threads)
    module = build(graph, plan, device)
    inputs, tensors, first = run(module, graph, 1)
    kept = [result.numpy().copy() for result in first]
    others, _, second = run(module, graph, 2)
    assert_right(graph, inputs, first)
    assert_right(graph, others, second)
    for result, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(result.numpy(), before)
    for tensor, name in zip(tensors, graph.inputs, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), inputs[name])


def test_elementwise_layers_write_in_place() -> None:
    b = Builder(x=(1, 4096))
    name = "x"
    for i in range(4):
        name = b.each(f"step{i}", AGAIN, name)
    graph = b.graph(b.each("end", AGAIN, name))
    plan, device = planned(graph)
    assert {choice.routine for choice in plan.layers} == {"elementwise/fused"}
    module = build(graph, plan, device)
    assert module.manifest["memory"]["arena_bytes"] == 4096 * 4
    inputs, _, results = run(module, graph, 0)
    assert_right(graph, inputs, results)


def test_a_network_without_activations_needs_no_arena(tmp_path: Path) -> None:
    b = Builder(x=(1, 64))
    graph = b.graph(b.each("only", AGAIN, "x"))
    plan, device = planned(graph)
    module = build(graph, plan, device)
    module.export(tmp_path / "one.so")
    loaded = sn.load_module(tmp_path / "one.so")
    assert loaded.manifest["memory"] == {
        "arena_bytes": 0,
        "lower_bound_bytes": 0,
        "weights_bytes": 0,
        "workspace_bytes": 0,
    }
    inputs, _, results = run(loaded, graph, 0)
    assert_right(graph, inputs, results)


def test_explain_tells_what_a_library_needs(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from softneuro_tvm.cli import app

    graph = branches()
    plan, device = planned(graph)
    module = build(graph, plan, device)
    module.export(tmp_path / "branches.so")
    shown = CliRunner().invoke(app, ["explain", str(tmp_path / "branches.so")])
    assert "activations" in shown.output and "lower bound" in shown.output and "weights" in shown.output
    plan.save(tmp_path / "plan.json")
    assert "lower bound" not in CliRunner().invoke(app, ["explain", str(tmp_path / "plan.json")]).output
    data = json.loads(CliRunner().invoke(app, ["explain", str(tmp_path / "branches.so"), "--json"]).output)
    assert data["memory"] == module.manifest["memory"]


def anonymous_bytes() -> int:
    """Resident memory of this process that belongs to no file."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells how much memory is resident")
def test_weights_stay_in_the_file(tmp_path: Path) -> None:
    b = Builder(x=(1, 2048))
    graph = b.graph(b.add("dense", DenseAttributes(), "x", weight=b.normal(2048, 2048), bias=b.normal(2048)))
    plan, device = planned(graph)
    build(graph, plan, device).export(tmp_path / "dense.so")
    before = anonymous_bytes()
    module = sn.load_module(tmp_path / "dense.so")
    inputs, _, results = run(module, graph, 0)
    assert module.manifest["memory"]["weights_bytes"] > 16_000_000
    assert anonymous_bytes() - before < 8_000_000
    assert_right(graph, inputs, results)
