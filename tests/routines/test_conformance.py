"""Every routine against the float64 reference of its layer kind, on the kind's own examples, within its declared error.

Nothing here names a routine: adding one adds its cases. Of the variants of a routine the first is always taken, the
others in turn, chosen by the workload's digest.
"""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TVM_NUM_THREADS", "2")

import tvm

from softneuro_tvm import codegen, reference, registry
from softneuro_tvm.activations import Activation
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.device import Device, host_device
from softneuro_tvm.formats import TensorType, pack, physical_shape, unpack
from softneuro_tvm.graph import Graph, Layer, Workload
from softneuro_tvm.layer_kind import LayerKind
from softneuro_tvm.layers.concat import ConcatAttributes
from softneuro_tvm.layers.conv_transpose2d import ConvTranspose2dAttributes
from softneuro_tvm.layers.dense import DenseAttributes
from softneuro_tvm.layers.elementwise import ElementwiseAttributes
from softneuro_tvm.layers.gather_channels import GatherChannelsAttributes
from softneuro_tvm.layers.layer_norm import LayerNormAttributes
from softneuro_tvm.layers.matmul import MatmulAttributes
from softneuro_tvm.layers.reduction import ReductionAttributes
from softneuro_tvm.layers.resize2d import Resize2dAttributes
from softneuro_tvm.layers.slice import SliceAttributes
from softneuro_tvm.layers.softmax import SoftmaxAttributes
from softneuro_tvm.layers.transpose import TransposeAttributes
from softneuro_tvm.registry import layer_kind
from softneuro_tvm.routine import VIEW, Nested, Routine, Variant
from tests.support.guarded import guarded

BATCH = 8
"""Kernels compiled as one module."""

GARBAGE = 37.0
"""What padding lanes of inputs hold: a kernel that lets them through is found out."""


@dataclass(frozen=True)
class Machine:
    """A device to generate code for, and how many variants of a (routine, workload) are checked on it."""

    name: str
    device: Device
    variants: int


@lru_cache
def machines() -> dict[str, Machine]:
    host = host_device(1)
    found = [Machine("host", host, 4), Machine("threads", host.with_threads(2), 2)]
    if host.vector_lanes == 16:
        avx2 = dataclasses.replace(
            host, target={"kind": "llvm", "mcpu": "haswell"}, vector_lanes=8, vector_registers=16, fma=True
        )
        found.append(Machine("avx2", avx2, 2))
    return {machine.name: machine for machine in found}


@dataclass(frozen=True, eq=False)
class Case:
    """One kernel to check."""

    routine: Routine
    workload: Workload
    variant: Variant

    def __str__(self) -> str:
        ports = "->".join("+".join(f.layout for f in side) for side in (self.variant.inputs, self.variant.outputs))
        return f"{self.routine.name} [{self.variant.params_text}] {ports} on {self.workload} {self.workload.attributes}"


def chosen(variants: Sequence[Variant], number: int, key: str) -> list[Variant]:
    """The first variant and `number - 1` others that depend on the key."""
    rest = list(variants[1:])
    start = zlib.crc32(key.encode())
    others = [rest[(start + i * 7) % len(rest)] for i in range(number - 1)] if rest else []
    return list(dict.fromkeys([*variants[:1], *others]))


def workloads(kind: LayerKind) -> Iterator[Workload]:
    """The kind's examples, and larger ones that reach what depends on size: threads, ranges of a reduction, streams."""
    yield from kind.examples()

    def dense(rows: int, c: int, k: int, attributes: DenseAttributes) -> Workload:
        x, y = TensorType((rows, c)), TensorType((rows, k))
        weights = {"weight": TensorType((k, c)), "bias": TensorType((k,))}
        return kind.workload(attributes, [x, y] if attributes.residual else [x], weights)

    gelu = DenseAttributes(Activation("gelu"), residual=True)
    large: dict[str, Callable[[], list[Workload]]] = {
        "dense": lambda: [dense(1, 1500, 200, DenseAttributes()), dense(33, 6000, 70, gelu), dense(40, 50, 401, gelu)],
        "matmul": lambda: [
            kind.workload(MatmulAttributes(), [TensorType((2, 3, 49, 33)), TensorType((2, 3, 33, 101))]),
            kind.workload(MatmulAttributes(transpose_b=True), [TensorType((1, 3, 65, 40)), TensorType((1, 3, 90, 40))]),
        ],
        "softmax": lambda: [kind.workload(SoftmaxAttributes(2), [TensorType((2, 50, 203))])],
        "layer_norm": lambda: [
            kind.workload(
                LayerNormAttributes((2,)),
                [TensorType((2, 90, 205))],
                {"gamma": TensorType((205,)), "beta": TensorType((205,))},
            )
        ],
        "reduction": lambda: [
            kind.workload(ReductionAttributes("mean", (2, 3)), [TensorType((2, 96, 21, 23))]),
            kind.workload(ReductionAttributes("max", (1,)), [TensorType((5, 9, 1700))]),
        ],
        "elementwise": lambda: (
            [
                kind.workload(
                    ElementwiseAttributes((("mul", ("x0", "x1")), ("add", ("t0", "w0")), ("relu", ("t1",)))),
                    [TensorType(shape) for shape in ((n, 36, 61, 63), (n, 36, 1, 1))],
                    {"w0": TensorType((1, 1, 61, 63))},
                )
                for n in (1, 2)
            ]
            + [
                kind.workload(ElementwiseAttributes((("pow", ("x0", exponent)),)), [TensorType((2, 20, 5, 3))])
                for exponent in (2.0, 3.0, 4.0)
            ]
        ),
        "concat": lambda: [
            kind.workload(ConcatAttributes(1), [TensorType((1, c, 53, 51)) for c in channels])
            for channels in ((32, 48), (20, 58))
        ],
        "slice": lambda: [
            kind.workload(SliceAttributes((0, b, 0, 0), (1, b + 60, 53, 51), (1,) * 4), [TensorType((1, 96, 53, 51))])
            for b in (16, 13)
        ],
        "gather_channels": lambda: [
            kind.workload(
                GatherChannelsAttributes(tuple((j % 2, j // 2) for j in range(116))),
                [TensorType((n, 58, 28, 28)) for _ in range(2)],
            )
            for n in (1, 3)
        ],
        "conv_transpose2d": lambda: [
            kind.workload(
                ConvTranspose2dAttributes((2, 2), padding),
                [TensorType((1, 64, 41, 60))],
                {"weight": TensorType((40, 64, *kernel)), "bias": TensorType((40,))},
            )
            for kernel, padding in (((2, 2), (0, 0, 0, 0)), ((3, 4), (1, 1, 0, 1)))
        ],
        "resize2d": lambda: [
            kind.workload(Resize2dAttributes(size, "linear"), [TensorType((1, 20, 60, 70))])
            for size in ((120, 140), (90, 333))
        ],
        "transpose": lambda: [
            kind.workload(TransposeAttributes((0, 2, 1, 3)), [TensorType((2, 197, 6, 64))]),
            kind.workload(TransposeAttributes((0, 2, 3, 1)), [TensorType((2, 70, 37, 29))]),
        ],
    }
    yield from large.get(kind.name, list)()


def cases(routine: Routine, kind: LayerKind, machine: Machine) -> Iterator[Case]:
    for workload in workloads(kind):
        if routine.refusal(workload, machine.device) is None:
            variants = list(dict.fromkeys(routine.variants(workload, machine.device)))
            assert variants, f"{routine.name} neither refuses {workload} nor offers a variant"
            picked = chosen(variants, machine.variants, workload.digest + machine.name)
            yield from (Case(routine, workload, variant) for variant in picked)


def single_layer(workload: Workload, weights: dict[str, np.ndarray]) -> Graph:
    inputs = tuple(f"input{i}" for i in range(len(workload.inputs)))
    outputs = tuple(f"output{i}" for i in range(len(workload.outputs)))
    types = dict(zip((*inputs, *outputs), (*workload.inputs, *workload.outputs), strict=True))
    layer = Layer("layer", workload.kind, workload.attributes, inputs, outputs, weights)
    return Graph((layer,), types, inputs, outputs)


@lru_cache(maxsize=256)
def sample(workload: Workload) -> tuple[list[np.ndarray], dict[str, np.ndarray], list[np.ndarray]]:
    """Inputs, weights, expected outputs in the outputs' own types (float64 for float32)."""
    kind = layer_kind(workload.kind)
    inputs, weights = kind.sample(workload)
    if kind.has_reference:
        wide = [x.astype("float64") if x.dtype.kind == "f" else x for x in inputs]
        exact = {name: w.astype("float64") if w.dtype.kind == "f" else w for name, w in weights.items()}
        return inputs, weights, list(kind.reference(workload.attributes, wide, exact))
    graph = single_layer(workload, weights)
    return inputs, weights, list(reference.evaluate(graph, dict(zip(graph.inputs, inputs, strict=True))).values())


def packed(array: np.ndarray, layout: str) -> np.ndarray:
    result = pack(array, layout)
    if result.size != array.size:
        result[pack(np.ones(array.shape, bool), layout) == 0] = GARBAGE
    return result


def verify(case: Case, run: Any) -> str | None:
    """What is wrong with a kernel, if anything. `run` takes input and weight arrays and output shapes and types."""
    inputs, weights, expected = sample(case.workload)
    formats = case.variant.inputs
    arguments = [packed(x, f.layout).astype(f.dtype) for x, f in zip(inputs, formats, strict=True)]
    arguments += case.routine.pack(case.workload, case.variant, weights)
    buffers = [
        (physical_shape(t.shape, f.layout), f.dtype)
        for t, f in zip(case.workload.outputs, case.variant.outputs, strict=True)
    ]
    bound = case.routine.error_bound(case.workload, case.variant)
    try:
        results = run([np.ascontiguousarray(a) for a in arguments], buffers)
    except Exception as error:
        return f"{case}: {error!r}"
    for result, port, wanted in zip(results, case.variant.outputs, expected, strict=True):
        if not np.isfinite(result).all():
            return f"{case}: {np.count_nonzero(~np.isfinite(result))} of {result.size} elements not finite"
        distance = np.abs(unpack(result, port.layout, wanted.shape) - wanted.astype("float64")).max(initial=0)
        relative = float(distance / max(1e-30, np.abs(wanted).max(initial=0)))
        if not relative <= bound:
            return f"{case}: error {relative:.3g} exceeds the declared {bound:.3g}"
    return None


class Guarded:
    """An output buffer between two margins that must stay as they are; unwritten elements are NaN."""

    MARGIN = 1 << 14

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.memory = np.full(size + 2 * self.MARGIN + 64, 0x5A, np.uint8)
        self.first = self.MARGIN + -self.memory.ctypes.data % 64
        self.end = self.first + size
        self.array = self.memory[self.first : self.end].view(dtype).reshape(shape)
        self.array[...] = np.nan if np.dtype(dtype).kind == "f" else 99

    @property
    def intact(self) -> bool:
        return bool((self.memory[: self.first] == 0x5A).all() and (self.memory[self.end :] == 0x5A).all())


def kernel_runner(kernel: Any) -> Any:
    def run(arguments: list[np.ndarray], buffers: list[tuple[tuple[int, ...], str]]) -> list[np.ndarray]:
        outputs = [Guarded(shape, dtype) for shape, dtype in buffers]
        written = [tvm.runtime.from_dlpack(output.array) for output in outputs]
        for at_end in (False, True):  # reading beyond arguments ends the process
            kernel(*[tvm.runtime.from_dlpack(guarded(a, at_end)) for a in arguments], *written)
        assert all(output.intact for output in outputs), "writes beyond its output"
        return [output.array for output in outputs]

    return run


def module_runner(module: Any, device: Device) -> Any:
    target = tvm.target.Target(dict(device.target))
    with target, tvm.transform.PassContext(opt_level=3, config=codegen.PASS_CONFIG):
        passes = codegen.relax_pipeline(module, target)
        built = tvm.relax.build(module, target, relax_pipeline=passes, tir_pipeline=codegen.TIR_PIPELINE)
    main = tvm.relax.VirtualMachine(built, tvm.cpu())["main"]

    def run(arguments: list[np.ndarray], buffers: list[tuple[tuple[int, ...], str]]) -> list[np.ndarray]:
        result = main(*[tvm.runtime.tensor(a) for a in arguments])
        return [r.numpy() for r in ([result] if isinstance(result, tvm.runtime.Tensor) else result)]

    return run


def view_runner(arguments: list[np.ndarray], buffers: list[tuple[tuple[int, ...], str]]) -> list[np.ndarray]:
    return [arguments[0].reshape(shape) for shape, _ in buffers]


def runners(batch: Sequence[Case], device: Device) -> list[Any]:
    """Something that runs each case; the kernels of all are one module."""
    emitted = [case.routine.emit(case.workload, case.variant, device) for case in batch]
    emitted = [item.kernel if isinstance(item, Nested) else item for item in emitted]
    kernels = {f"k{i}": e for i, e in enumerate(emitted) if isinstance(e, tvm.tirx.PrimFunc)}
    built: Any = {}
    if kernels:
        module = tvm.IRModule({name: codegen.rename(kernel, name) for name, kernel in kernels.items()})
        with tvm.transform.PassContext(opt_level=3, config=codegen.PASS_CONFIG):
            target = tvm.target.Target(dict(device.target))
            built = tvm.tirx.build(module, target, pipeline=codegen.TIR_PIPELINE)
    return [
        view_runner
        if item is VIEW
        else kernel_runner(built[f"k{i}"])
        if f"k{i}" in kernels
        else module_runner(item, device)
        for i, item in enumerate(emitted)
    ]


def parameters() -> Iterator[Any]:
    """(routine, kind, machine); routines for every kind are checked one kind at a time."""
    for name, routine in registry.routines().items():
        for kind in [routine.kind] if routine.kind != "*" else list(registry.layer_kinds()):
            for machine in machines().values():
                if routine.kind != "*":
                    yield pytest.param(name, kind, machine.name, id=f"{name}-{machine.name}")
                elif machine.name != "avx2" and any(cases(routine, registry.layer_kind(kind), machine)):
                    yield pytest.param(name, kind, machine.name, id=f"{name}({kind})-{machine.name}")


def test_every_module_can_be_imported() -> None:
    assert registry.import_errors() == ()


@pytest.mark.parametrize(("name", "kind", "machine_name"), list(parameters()))
def test_against_reference(name: str, kind: str, machine_name: str) -> None:
    machine = machines()[machine_name]
    found = list(cases(registry.routine(name), layer_kind(kind), machine))
    assert found, f"{name} applies to no example of {kind}; add one to the kind"
    wrong = []
    for start in range(0, len(found), BATCH):
        batch = found[start : start + BATCH]
        for case, run in zip(batch, runners(batch, machine.device), strict=True):
            wrong.append(verify(case, run))
    assert not any(wrong), "\n".join(filter(None, wrong))


@pytest.mark.parametrize("kind", registry.layer_kinds())
def test_every_example_has_a_candidate_and_every_refusal_a_reason(kind: str) -> None:
    device = machines()["host"].device
    for workload in layer_kind(kind).examples():
        _, weights, _ = sample(workload)
        found = enumerate_candidates(single_layer(workload, weights), device)
        for refusals in found.refusals.values():
            for routine, reason in refusals:
                assert len(reason) > 5, f"{routine} refuses {workload} without a reason"


@pytest.mark.parametrize("name", registry.routines())
def test_describes_itself(name: str) -> None:
    routine = registry.routine(name)
    assert routine.source and type(routine).__doc__ and "Shapes" in str(type(routine).__doc__)
    for machine in machines().values():
        kinds = [routine.kind] if routine.kind != "*" else list(registry.layer_kinds())
        for workload in (workload for kind in kinds for workload in layer_kind(kind).examples()):
            if routine.refusal(workload, machine.device) is not None:
                continue
            for variant in routine.variants(workload, machine.device):
                assert len(variant.inputs) == len(workload.inputs)
                assert len(variant.outputs) == len(workload.outputs)
                assert 0 <= routine.error_bound(workload, variant) < 1e-2
                assert routine.workspace_bytes(workload, variant) >= 0
