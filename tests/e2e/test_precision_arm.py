"""A network in mixed precision, tuned by made-up times, on an emulated ARM board with float16 arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import softneuro_tvm as sn
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler import Profiler, ProfileStore, TimingOptions
from softneuro_tvm.reference import sample_inputs
from softneuro_tvm.remote import Board
from softneuro_tvm.remote.module import on_board
from softneuro_tvm.selection import select
from softneuro_tvm.verification import reference_outputs
from tests.support import made_up, rpc_servers
from tests.support.arm_board import arm_board_command

DEVICE = sn.load_device("cortex-a76", 1)


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    with rpc_servers.serving("arm", boards=0) as servers:
        servers.start_board(command=arm_board_command())
        yield servers.board(connect_timeout_s=60)


def test_casts_and_float16_are_measured_there(board: Board, tmp_path: Path) -> None:
    """The inputs are sent in the type that a candidate reads, and errors are those of float16."""
    graph = sn.load("zoo:digits").graph
    candidates = enumerate_candidates(graph, DEVICE, precision="mixed").all()
    wanted = {"dtype_cast/converted", "conv2d/stem", "dense/packed"}
    found = {c.routine.name: c for c in candidates if "float16" in str(c.variant) and c.routine.name in wanted}
    assert set(found) == wanted
    with ProfileStore(tmp_path / "profile.sqlite") as store:
        options = TimingOptions(timeout_s=60, max_total_s=0.1)
        with Profiler(DEVICE, store, options=options, residency="l2", board=board) as profiler:
            profiler.look_up(list(found.values()))
            profiler.measure(list(found.values()))
            assert {c.routine.name: (m.status, m.message) for c, m in profiler.results.items()} == dict.fromkeys(
                wanted, ("ok", "")
            )
            errors = {c.variant.outputs[0].dtype: m.error for c, m in profiler.results.items()}
            assert 1e-5 < errors["float16"] < 1e-2


def test_digits_in_mixed_precision(board: Board) -> None:
    model = sn.load("zoo:digits")
    candidates = enumerate_candidates(model.graph, DEVICE, precision="mixed")
    measured = {
        option: Measurement("ok", (m.median_s / 4,), 1e-3) if "float16" in str(option.variant) else m
        for option, m in made_up.profile(candidates.all()).items()
    }
    plan = sn.Plan.from_json(select(model.graph, candidates, measured, DEVICE).to_json())
    assert sum(choice.variant.outputs[0].dtype == "float16" for choice in plan.layers) >= 3
    assert any(adapter.routine == "dtype_cast/converted" for adapter in plan.adapters)
    module = sn.build(model, plan)
    assert {port["dtype"] for name in ("inputs", "outputs") for port in module.manifest[name]} == {"float32"}
    with on_board(board, module) as there:
        agreement = sn.verify(model, plan, there)
        assert 1e-5 < agreement.error <= agreement.tolerance < 0.1
        inputs = sample_inputs(model.graph)
        (expected,) = reference_outputs(model, inputs)[1]
        (found,) = there.run(there.tensors([], inputs))
        assert (np.argmax(found, 1) == np.argmax(expected, 1)).all()
