"""Routines that are views: nothing runs for any variant, and the elements lie where `Nested` says."""

from __future__ import annotations

import numpy as np
import pytest

from softneuro_tvm import registry
from softneuro_tvm.formats import pack
from softneuro_tvm.graph import Workload
from softneuro_tvm.registry import layer_kind
from softneuro_tvm.routine import Nested, Routine, Variant, View
from tests.routines.test_conformance import machines, workloads


def emitted_by(routine: Routine, machine_name: str) -> list[tuple[Workload, Variant, View]]:
    """What is emitted for every example that the routine applies to."""
    device = machines()[machine_name].device
    found = []
    for workload in workloads(layer_kind(routine.kind)):
        if routine.refusal(workload, device) is None:
            for variant in routine.variants(workload, device):
                emitted = routine.emit(workload, variant, device)
                found.append((workload, variant, emitted))
    assert found
    return found


def test_there_are_such_routines() -> None:
    assert {"concat/in_place", "slice/view"} <= {name for name, found in registry.routines().items() if found.is_view}


@pytest.mark.parametrize("machine_name", ["host", "threads"])
@pytest.mark.parametrize("name", [name for name, found in registry.routines().items() if found.is_view])
def test_parts_lie_where_the_routine_says(name: str, machine_name: str) -> None:
    for workload, variant, emitted in emitted_by(registry.routine(name), machine_name):
        assert isinstance(emitted, Nested)  # no other view is declared so far
        kind = layer_kind(workload.kind)
        inputs, _ = kind.sample(workload)
        outputs = kind.reference(workload.attributes, inputs, {})
        whole, parts = (inputs[0], outputs) if emitted.splits else (outputs[0], inputs)
        layout = variant.outputs[0].layout
        memory = pack(np.asarray(whole), layout).tobytes()
        for part, offset in zip(parts, emitted.offsets, strict=True):
            packed, is_real = pack(np.asarray(part), layout), pack(np.ones(part.shape, bool), layout)
            there = np.frombuffer(memory, part.dtype, packed.size, offset).reshape(packed.shape)
            np.testing.assert_array_equal(there[is_real], packed[is_real])
            assert offset % 64 == 0
