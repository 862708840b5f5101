"""A whole expression in one pass over memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from math import prod
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, TensorType, canonical_layout, is_padded, pack, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.elementwise import evaluate
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import blocked_layouts
from .._half import ROUNDING, also_in_float16, summing
from .._rows import sweep
from .._tir import Expr, Kernel, cast, ceil_div, computing_in, element
from ._functions import COSTLY, functions, is_supported, is_total
from ._space import iteration_space

PARALLEL_SECONDS = 1e-5
"""Shorter kernels run on one thread: starting the others takes about half as long."""

BYTE_SECONDS, OPERATOR_SECONDS, COSTLY_SECONDS = 3e-11, 2e-11, 4e-10
"""Estimates for one byte moved, and for one operator on one element."""


def _float16_error(workload: Workload, variant: Variant) -> float:
    """Grows with the operators that round to float16; where a costly one is among them, none but the last does."""
    rounded = 1 if _in_float32(workload) else len(workload.attributes.expression)
    return summing(1) + 2 * ROUNDING * rounded


def _in_float32(workload: Workload) -> bool:
    """Whether a float16 kernel computes in float32: what is more than a few operators takes the time either way."""
    return any(operator in COSTLY or operator == "pow" for operator, _ in workload.attributes.expression)


@also_in_float16(_float16_error)
class Fused(Routine):
    """Evaluates the expression vector by vector, without temporaries in memory.

    Axes along which all operands are contiguous, or all broadcast, are one loop; the innermost one is vectorised, its
    last vector overlaps the one before. Parallel over the outermost axis that is long enough.

    Shapes: inputs and constants of any rank, broadcast to y; of rank 4 in NCHW, NCHWc or NHWC, all in the same layout.
    Error: a few units in the last place for each operator; functions are polynomials of 4e-7.
    """

    kind = "elementwise"
    source = "Chen et al., TVM: An Automated End-to-End Optimizing Compiler for Deep Learning (OSDI 2018), 3"
    requirements = (
        Requirement("float32", lambda w, d: all(t.dtype == "float32" for t in (*w.inputs, *w.outputs))),
        Requirement(
            "operators with a vector form (not sin, cos or powers other than 1, 2, 3, 4 and 0.5)",
            lambda w, d: is_supported(w.attributes.expression),
        ),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One for each layout; padded ones only where padding lanes cannot become infinite or undefined."""
        shape = workload.outputs[0].shape
        layouts: tuple[str, ...] = (canonical_layout(len(shape)),)
        if len(shape) == 4 and all(tensor.rank == 4 for tensor in workload.inputs):
            layouts = (*blocked_layouts(device), "NCHW", "NHWC")
        grows = element() != "float32" and any(op in ("exp", "pow") for op, _ in workload.attributes.expression)
        for layout in layouts:
            if (is_total(workload.attributes.expression) and not grows) or not is_padded(shape, layout):
                same_rank = [len(tensor.shape) == len(shape) for tensor in workload.inputs]
                inputs = [
                    Format(layout if same else canonical_layout(tensor.rank))
                    for tensor, same in zip(workload.inputs, same_rank, strict=True)
                ]
                yield Variant((), tuple(inputs), (Format(layout),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Grows with the number of operators."""
        return 2e-6 * (1 + len(workload.attributes.expression))

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Constants in the layout of the output."""
        rank, layout = workload.outputs[0].rank, variant.outputs[0].layout
        arrays = [weights[f"w{i}"] for i in range(workload.attributes.count("w"))]
        return tuple(pack(w.reshape(_widened(w.shape, rank)).astype("float32"), layout) for w in arrays)

    def in_place_inputs(self, workload: Workload, variant: Variant, device: Device) -> tuple[int, ...]:
        """Inputs of the output's shape, unless the last vector of a row reads again what the one before has written."""
        shapes = _operand_shapes(workload)
        row = iteration_space(shapes, shapes[-1], variant.outputs[0].layout)[-1].extent
        if row > device.vector_lanes and row % device.vector_lanes:
            return ()
        (target,) = zip(workload.outputs, variant.outputs, strict=True)
        ports = zip(workload.inputs, variant.inputs, strict=True)
        return tuple(position for position, port in enumerate(ports) if port == target)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x0, x1.., w0, w1.., y."""
        layout = variant.outputs[0].layout
        constants, shapes = _constants(workload), _operand_shapes(workload)
        axes = iteration_space(shapes, shapes[-1], layout)
        names = [*(f"x{i}" for i in range(len(workload.inputs))), *(f"w{i}" for i in range(len(constants))), "y"]
        physical = [physical_shape(t.shape, f.layout) for t, f in zip(workload.inputs, variant.inputs, strict=True)]
        physical += [physical_shape(shape, layout) for shape in shapes[len(physical) :]]
        parallel = device.threads > 1 and _estimated_seconds(workload) > PARALLEL_SECONDS
        split = _parallel_axis([axis.extent for axis in axes], device.threads) if parallel else -1

        with Kernel() as k:
            buffers = k.arguments(*zip(names, physical, strict=True))

            def point(offsets: Sequence[Expr], lanes: int) -> None:
                strides = axes[-1].strides
                values = [
                    k.bind(k.load(buffer, at, lanes) if stride else k.splat(buffer[at], lanes))
                    for buffer, at, stride in zip(buffers[:-1], offsets[:-1], strides, strict=False)
                ]
                dtype, count = element(), len(workload.inputs)
                inner = "float32" if _in_float32(workload) else dtype
                if inner != dtype:
                    values = [k.bind(cast(value, inner, lanes)) for value in values]
                with computing_in(inner):
                    table = functions(lanes)
                    result = evaluate(workload.attributes.expression, values[:count], values[count:], table)
                k.store(buffers[-1], offsets[-1], result if inner == dtype else cast(result, dtype, lanes), lanes)

            with ExitStack() as loops:
                offsets: list[Expr] = [0] * len(buffers)
                outer = axes[:-1]
                if 0 < split < len(outer):
                    outer.insert(0, outer.pop(split))
                for position, axis in enumerate(outer):
                    is_split = parallel and position == 0 and split < len(outer)
                    index = loops.enter_context(k.loop(axis.extent, is_split))
                    offsets = [at + index * stride for at, stride in zip(offsets, axis.strides, strict=True)]
                offsets = [k.bind(at) for at in offsets]

                def vector(start: Expr, lanes: int) -> None:
                    point([at + start * s for at, s in zip(offsets, axes[-1].strides, strict=True)], lanes)

                if parallel and split == len(outer):
                    _sweep_parallel(k, axes[-1].extent, device, vector)
                else:
                    sweep(k, axes[-1].extent, device.vector_lanes, vector)
        return k.function


def _constants(workload: Workload) -> list[TensorType]:
    return [workload.weight_types[f"w{i}"] for i in range(workload.attributes.count("w"))]


def _operand_shapes(workload: Workload) -> list[tuple[int, ...]]:
    """Shapes of inputs, constants and output, all of the output's rank."""
    target = workload.outputs[0].shape
    return [_widened(t.shape, len(target)) for t in (*workload.inputs, *_constants(workload))] + [target]


def _widened(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(shape)) + tuple(shape)


def _estimated_seconds(workload: Workload) -> float:
    elements = prod(workload.outputs[0].shape)
    operators = [operator for operator, _ in workload.attributes.expression]
    costs = [COSTLY_SECONDS if operator in COSTLY else OPERATOR_SECONDS for operator in operators]
    moved = sum(tensor.size_bytes for tensor in (*workload.inputs, *workload.outputs))
    return BYTE_SECONDS * moved + sum(costs) * elements


def _parallel_axis(extents: Sequence[int], threads: int) -> int:
    """The outermost axis that gives every thread work; the innermost one only if it is not swept many times."""
    *outer, _ = extents
    enough = [position for position, extent in enumerate(outer) if extent >= 4 * threads or extent == threads]
    if enough or prod(outer) <= 2:
        return enough[0] if enough else len(outer)
    return outer.index(max(outer))


def _sweep_parallel(k: Kernel, extent: int, device: Device, vector: Callable[[Expr, int], None]) -> None:
    """Calls `vector(start, lanes)` for vectors that cover an extent, each thread taking a range of them."""
    lanes, number = device.vector_lanes, ceil_div(extent, device.vector_lanes)
    if number < device.threads or extent < lanes:
        sweep(k, extent, lanes, vector)
        return
    share = ceil_div(number, device.threads)
    with k.loop(device.threads, parallel=True) as task, k.loop(T.min(share, number - task * share)) as i:
        vector(k.bind(T.min((task * share + i) * lanes, extent - lanes)), lanes)
