"""Sizes of packed weights are known without packing, for every routine and each of its kind's examples."""

from __future__ import annotations

import numpy as np
import pytest

from softneuro_tvm.candidates import workload_candidates
from softneuro_tvm.device import Device
from softneuro_tvm.registry import layer_kinds
from softneuro_tvm.selection import packing

DEVICE = Device("test", {"kind": "llvm", "mcpu": "haswell"}, threads=2, vector_lanes=8, vector_registers=16, fma=True)


@pytest.mark.parametrize("large", [0, packing.LARGE])
@pytest.mark.parametrize("kind", sorted(layer_kinds()))
def test_the_size_is_that_of_the_packed_arrays(kind: str, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LARGE", large)
    for workload in layer_kinds()[kind].examples():
        weights = layer_kinds()[kind].sample(workload)[1]
        for candidate in workload_candidates(workload, DEVICE, last_resorts=True)[0]:
            packed = candidate.routine.pack(workload, candidate.variant, weights)
            assert packing.packed_bytes(candidate) == sum(array.nbytes for array in packed), candidate.descriptor
    assert isinstance(np.zeros(2), np.ndarray) and not np.zeros(2).any()


def test_a_large_layer_takes_no_memory() -> None:
    kind = layer_kinds()["dense"]
    example = next(iter(kind.examples()))
    shape = (1 << 17, 1 << 13)  # 4 GiB
    from softneuro_tvm.formats import TensorType

    weights = {"weight": TensorType(shape), "bias": TensorType(shape[:1])}
    workload = kind.workload(type(example.attributes)(), [TensorType((1, shape[1]))], weights)
    options = [c for c in workload_candidates(workload, DEVICE)[0] if c.routine.name == "dense/packed"]
    assert packing.packed_bytes(options[0]) == 4 * (shape[0] * shape[1] + shape[0])
