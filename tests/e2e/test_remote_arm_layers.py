"""A small layer of each kind on an emulated ARM board that a tracker knows, from its candidates to the right answer.

All of them are one network, which is tuned, built and run once. No time is asserted: emulated ones mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

import softneuro_tvm as sn
from softneuro_tvm.graph import Graph, Layer, Workload
from softneuro_tvm.pipeline import Model, TuneOptions
from softneuro_tvm.plan import Plan
from softneuro_tvm.profiler import ProfileStore
from softneuro_tvm.profiler.rows import Row
from softneuro_tvm.reference import evaluate
from softneuro_tvm.registry import layer_kind, layer_kinds, routine, routines_of
from softneuro_tvm.remote import Board
from softneuro_tvm.remote.module import on_board
from softneuro_tvm.verification import relative_error
from tests.support import rpc_servers
from tests.support.arm_board import arm_board_command

KINDS = tuple(layer_kinds())
DEVICE = sn.load_device("cortex-a76", 1)


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    with rpc_servers.serving("arm", boards=0) as servers:
        servers.start_board(command=arm_board_command())
        yield servers.board(connect_timeout_s=60)


def smallest(kind: str) -> Workload:
    """The smallest example of a kind to which most of its own routines apply."""
    own = [each for each in routines_of(kind) if each.kind == kind]

    def size(workload: Workload) -> tuple[int, int]:
        applying = sum(each.refusal(workload, DEVICE) is None for each in own)
        tensors = (*workload.inputs, *workload.outputs, *workload.weight_types.values())
        return -min(applying, 1), sum(tensor.size_bytes for tensor in tensors)

    return min(layer_kind(kind).examples(), key=size)


def network() -> tuple[Graph, dict[str, np.ndarray]]:
    """Layers of all kinds, which have nothing to do with one another, and inputs."""
    layers, types, arrays = [], {}, {}
    for kind in KINDS:
        workload = smallest(kind)
        inputs = tuple(f"{kind}.x{i}" for i in range(len(workload.inputs)))
        outputs = tuple(f"{kind}.y{i}" for i in range(len(workload.outputs)))
        values, weights = layer_kind(kind).sample(workload)
        layers.append(Layer(kind, kind, workload.attributes, inputs, outputs, weights))
        types |= zip((*inputs, *outputs), (*workload.inputs, *workload.outputs), strict=True)
        arrays |= zip(inputs, values, strict=True)
    return Graph(tuple(layers), types, tuple(arrays), tuple(n for layer in layers for n in layer.outputs)), arrays


@dataclass(frozen=True, eq=False)
class Tuned:
    """What came of the network.

    Args:
        plan: The best one.
        rows: Of the profile store.
        outputs: By name.
        expected: The same by the kinds' references.
    """

    plan: Plan
    rows: Sequence[Row]
    outputs: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def tuned(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    graph, inputs = network()
    store, model = tmp_path_factory.mktemp("arm") / "store.sqlite", Model(graph, None)
    # the first plan is completed in any case: one candidate of each layer, and what converts between formats
    options = TuneOptions(budget_s=1.0)
    plan = sn.tune(model, device=DEVICE, store=store, board=board, options=options)
    with ProfileStore(store) as records:
        rows = list(records.rows())
    with on_board(board, sn.build(model, plan)) as there:
        outputs = dict(zip(graph.outputs, there.run(there.tensors([], inputs)), strict=True))
    return Tuned(plan, rows, outputs, evaluate(graph, inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer(tuned: Tuned, kind: str) -> None:
    (choice,) = (choice for choice in tuned.plan.layers if choice.layer == kind)
    workload = smallest(kind)
    bound = routine(choice.routine).error_bound(workload, choice.variant)
    for name in (f"{kind}.y{i}" for i in range(len(workload.outputs))):
        assert relative_error([tuned.outputs[name]], [tuned.expected[name]]) <= max(bound, 1e-6), choice.routine


def test_everything_was_measured_there(tuned: Tuned) -> None:
    measured = [row for row in tuned.rows if row.measurement.median_s > 0]
    failed = [(row.key.routine, row.measurement.message) for row in measured if not row.measurement.ok]
    assert not failed
    assert len({row.measurement.board for row in measured}) == 1
    views = {choice.kind for choice in tuned.plan.layers if choice.median_s == 0.0}
    assert {row.key.kind for row in measured} >= set(KINDS) - views
