"""Built networks tell how long each of their kernels takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import softneuro_tvm as sn
from softneuro_tvm.builder import build
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.cli import app
from softneuro_tvm.errors import BuildError
from softneuro_tvm.reference import sample_inputs
from softneuro_tvm.runtime import Module, load_module
from softneuro_tvm.selection import select
from softneuro_tvm.step_times import TIMES_FUNCTION, Step, StepTime, blank_times, by_name
from tests.support import made_up


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """Model and plan of a network, and its library."""
    model, device = sn.load("zoo:digits"), sn.host_device(2)
    candidates = enumerate_candidates(model.graph, device)
    plan = select(model.graph, candidates, made_up.profile(candidates.all(), 3), device)
    path = tmp_path_factory.mktemp("steps") / "digits.so"
    build(model.graph, plan, device).export(path)
    return model, plan, path


def test_each_layer_has_a_time(built: tuple[Any, Any, Path]) -> None:
    model, plan, path = built
    module = load_module(path)
    tensors = module.tensors([], sample_inputs(model.graph))
    times = module.time_steps(tensors, 3)
    expected = [(c.layer, c.routine, c.median_s) for c in plan.layers if not c.routine.endswith("view")]
    adapters = {(a.tensor, a.routine, a.median_s) for a in plan.adapters}
    found = [(t.step.name, t.step.routine, t.step.expected_s) for t in times]
    assert [step for step in found if step not in adapters] == expected
    assert {step for step in found if step in adapters} == adapters
    assert all(0 < t.seconds < 1 for t in times)


def test_nothing_is_counted_unless_asked(built: tuple[Any, Any, Path]) -> None:
    model, _, path = built
    module = load_module(path)
    tensors = module.tensors([], sample_inputs(model.graph))
    module.time_steps(tensors, 1)
    module.run(tensors)
    import tvm

    count = tvm.runtime.tensor(np.full_like(blank_times(module.manifest), np.nan))
    collect = tvm.runtime.load_module(str(path)).get_function(TIMES_FUNCTION, True)
    collect(count, 1)
    assert not count.numpy().any()
    module.run(tensors)
    collect(count, 0)
    assert count.numpy().all()


def test_results_are_the_same_while_it_counts(built: tuple[Any, Any, Path]) -> None:
    model, _, path = built
    module = load_module(path)
    tensors = module.tensors([], sample_inputs(model.graph))
    before = module.run(tensors)
    module.time_steps(tensors, 2)
    np.testing.assert_array_equal(module.run(tensors)[0], before[0])


def test_a_module_without_count_says_so(built: tuple[Any, Any, Path]) -> None:
    module = load_module(built[2])
    older = Module(None, {key: value for key, value in module.manifest.items() if key != "steps"})
    with pytest.raises(BuildError, match="build it again"):
        older.time_steps([])


def test_kernels_of_one_layer_are_added_up() -> None:
    times = [
        StepTime(Step("", "tvm"), 1.0),
        StepTime(Step("a", "conv2d/direct", 2.0), 2.0),
        StepTime(Step("", "tvm"), 3.0),
    ]
    assert [each.seconds for each in by_name(times).values()] == [4.0, 2.0]


def test_run_prints_them(built: tuple[Any, Any, Path]) -> None:
    runner = CliRunner()
    shown = runner.invoke(app, ["run", str(built[2]), "--profile", "--repeat", "2"])
    assert shown.exit_code == 0, shown.output
    assert "in the network, ms" in shown.output and "residual.conv1" in shown.output
    found = json.loads(runner.invoke(app, ["run", str(built[2]), "--profile", "--json"]).stdout)
    assert {"layer": "fc", "routine": "dense/packed"}.items() <= found["steps"][-1].items()
