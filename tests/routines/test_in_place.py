"""Kernels that may write in place of an input give the same result when they do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm

from softneuro_tvm import codegen, registry
from softneuro_tvm.formats import TensorType, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.elementwise import ElementwiseAttributes
from softneuro_tvm.registry import layer_kind
from softneuro_tvm.routine import Routine
from tests.routines.test_conformance import cases, machines

TRIPLE = ElementwiseAttributes((("mul", ("x0", 3.0)),))


def declared() -> list[str]:
    """Routines that write in place of an input somewhere."""
    found = registry.routines().items()
    return [name for name, routine in found if type(routine).in_place_inputs is not Routine.in_place_inputs]


def compiled(kernels: dict[str, Any], target: Any) -> Any:
    module = tvm.IRModule({name: codegen.rename(kernel, name) for name, kernel in kernels.items()})
    with tvm.transform.PassContext(opt_level=3, config=codegen.PASS_CONFIG):
        return tvm.tirx.build(module, tvm.target.Target(dict(target)), pipeline=codegen.TIR_PIPELINE)


def test_there_are_such_routines() -> None:
    assert "elementwise/fused" in declared()


@pytest.mark.parametrize("machine_name", ["host", "threads"])
@pytest.mark.parametrize("name", declared())
def test_in_place_equals_apart(name: str, machine_name: str) -> None:
    machine, routine = machines()[machine_name], registry.routine(name)
    chosen = [
        (case, positions)
        for case in cases(routine, layer_kind(routine.kind), machine)
        if (positions := routine.in_place_inputs(case.workload, case.variant, machine.device))
    ]
    assert chosen
    emitted = [routine.emit(case.workload, case.variant, machine.device) for case, _ in chosen]
    kernels = {f"apart{i}": kernel for i, kernel in enumerate(emitted)}
    kernels |= {f"within{i}": kernel.with_attr("tirx.noalias", False) for i, kernel in enumerate(emitted)}
    built = compiled(kernels, machine.device.target)
    rng = np.random.default_rng(0)
    for i, (case, positions) in enumerate(chosen):
        weights = [rng.random(t.shape, np.float32) for _, t in case.workload.weights]
        weights = list(
            routine.pack(
                case.workload,
                case.variant,
                {key: w for (key, _), w in zip(case.workload.weights, weights, strict=True)},
            )
        )
        ports = zip(case.workload.inputs, case.variant.inputs, strict=True)
        inputs = [rng.random(physical_shape(t.shape, f.layout), np.float32) for t, f in ports]
        for position in positions:
            target = inputs[position]
            assert case.variant.inputs[position] == case.variant.outputs[0]
            arguments = [tvm.runtime.tensor(array) for array in (*inputs, *weights)]
            apart = tvm.runtime.tensor(np.full_like(target, np.nan))
            built[f"apart{i}"](*arguments, apart)
            built[f"within{i}"](*arguments, arguments[position])
            np.testing.assert_array_equal(arguments[position].numpy(), apart.numpy(), str(case))


@pytest.mark.parametrize(("extent", "allowed"), [(32, (0,)), (3, (0,)), (35, ())])
def test_rows_whose_last_vector_overlaps_are_not_in_place(extent: int, allowed: tuple[int, ...]) -> None:
    device = machines()["host"].device
    workload: Workload = layer_kind("elementwise").workload(TRIPLE, [TensorType((1, extent))])
    routine = registry.routine("elementwise/fused")
    found = {routine.in_place_inputs(workload, variant, device) for variant in routine.variants(workload, device)}
    assert found == {allowed}
