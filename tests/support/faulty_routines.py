"""Routines for `dense` that go right and wrong in every way the profiler must survive."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.dense import Dense, DenseAttributes
from softneuro_tvm.routine import VIEW, Candidate, Routine, Variant

KIND = Dense()


def workload(n: int = 4, c: int = 32, k: int = 16) -> Workload:
    return KIND.workload(
        DenseAttributes(), [TensorType((n, c))], {"weight": TensorType((k, c)), "bias": TensorType((k,))}
    )


class Plain(Routine):
    """Correct."""

    name = "dense/plain"
    kind = "dense"
    source = "TE definition"

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        for unroll in (1, 2):
            yield Variant((("unroll", unroll),), (Format("NC"),), (Format("NC"),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        return 1e-5

    def bias(self, tensor: Any, index: Any) -> Any:
        return tensor[index]

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        from tvm import te

        (n, c), k = workload.inputs[0].shape, workload.outputs[0].shape[1]
        x, bias, weight = te.placeholder((n, c)), te.placeholder((k,)), te.placeholder((k, c))
        axis = te.reduce_axis((0, c))
        total = te.compute((n, k), lambda i, j: te.sum(x[i, axis] * weight[j, axis], [axis]))
        y = te.compute((n, k), lambda i, j: total[i, j] + self.bias(bias, j))
        return te.create_prim_func([x, bias, weight, y])


class Wrong(Plain):
    """Forgets the bias."""

    name = "dense/wrong"

    def bias(self, tensor: Any, index: Any) -> Any:
        return 0.0


class NotWritten(Plain):
    """Leaves its output alone."""

    name = "dense/not_written"

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        return calling("", workload)


def arguments(workload: Workload) -> list[Any]:
    """The buffers of a kernel that is being built."""
    from tvm.tirx.script.builder import ir as T

    (n, c), k = workload.inputs[0].shape, workload.outputs[0].shape[1]
    shapes = (("x", (n, c)), ("b", (k,)), ("w", (k, c)), ("y", (n, k)))
    return [T.arg(name, T.buffer(shape, "float32")) for name, shape in shapes]


def calling(function: str, workload: Workload, *values: Any) -> Any:
    """A kernel that does nothing but call a C function."""
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.tirx.script.builder import ir as T

    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("main")
            arguments(workload)
            T.evaluate(tirx.call_extern("int32", function, *values) if function else tirx.const(0, "int32"))
    return builder.get()


class Rendezvous(Plain):
    """Two iterations of a parallel loop wait for each other: it returns (with a wrong result) only on two threads."""

    name = "dense/rendezvous"

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        from tvm import tirx
        from tvm.script.ir_builder import IRBuilder
        from tvm.tirx.script.builder import ir as T

        with IRBuilder() as builder:
            with T.prim_func(s_tir=True):
                T.func_name("main")
                *_, y = arguments(workload)
                with T.serial(0, 2) as i:
                    T.buffer_store(y, tirx.const(0, "float32"), [i, 0])
                with T.parallel(0, 2) as i:
                    T.buffer_store(y, tirx.const(1, "float32"), [i, 0])
                    with T.While(y[1 - i, 0] != tirx.const(1, "float32")):
                        T.evaluate(tirx.call_extern("int32", "sched_yield"))
                with T.serial(0, workload.outputs[0].shape[0]) as i, T.serial(0, workload.outputs[0].shape[1]) as j:
                    T.buffer_store(y, tirx.const(1, "float32"), [i, j])
        return builder.get()


class Aborting(Plain):
    """Takes its process down."""

    name = "dense/aborting"

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        return calling("abort", workload)


class Hanging(Plain):
    """Never returns."""

    name = "dense/hanging"

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        return calling("pause", workload)


class Raising(Plain):
    """Cannot be generated."""

    name = "dense/raising"

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        raise ZeroDivisionError("no kernel today")


class NotCompilable(Plain):
    """Reads a variable that is nowhere defined: TVM refuses it late, in the middle of a batch."""

    name = "dense/not_compilable"

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        from tvm import tirx

        return calling("abs", workload, tirx.Var("undefined", "int32"))


class KillsCompiler(Plain):
    """Takes the compiling process down."""

    name = "dense/kills_compiler"

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        os.abort()


class KillsGenerator(Plain):
    """Takes down the process that generates it."""

    name = "dense/kills_generator"

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        os.abort()


class HangsGenerator(Plain):
    """Is never generated."""

    name = "dense/hangs_generator"

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        time.sleep(1000)


class HangsCompiler(Plain):
    """Never finishes compiling."""

    name = "dense/hangs_compiler"

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        time.sleep(1000)
        return 0.0


class AsRelax(Plain):
    """Correct, through the virtual machine."""

    name = "dense/as_relax"

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        from tvm import relax

        types = (workload.inputs[0], *(tensor for _, tensor in workload.weights))
        x, bias, weight = (relax.Var(f"v{i}", relax.TensorType(t.shape, t.dtype)) for i, t in enumerate(types))
        builder = relax.BlockBuilder()
        with builder.function("main", [x, bias, weight]):
            with builder.dataflow():
                product = builder.emit(relax.op.matmul(x, builder.emit(relax.op.permute_dims(weight))))
                result = builder.emit_output(relax.op.add(product, bias))
            builder.emit_func_output(result)
        return builder.finalize()


class AsView(Plain):
    """Claims that nothing needs to run."""

    name = "dense/as_view"

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        return VIEW


EXPECTED: dict[type[Routine], str] = {
    Plain: "ok",
    Wrong: "wrong",
    NotWritten: "wrong",
    Aborting: "crash",
    Hanging: "timeout",
    Raising: "error",
    NotCompilable: "error",
    KillsCompiler: "error",
    AsRelax: "ok",
    AsView: "ok",
}
"""What measuring comes to."""


def candidates(*routines: type[Routine], of: Workload | None = None) -> list[Candidate]:
    """The first candidate of each routine."""
    found = of or workload()
    device = Device("test", {"kind": "llvm"})
    return [Candidate(found, routine(), next(iter(routine().variants(found, device)))) for routine in routines]
