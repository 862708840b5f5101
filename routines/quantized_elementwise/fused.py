"""Conversion to numbers, a whole expression, and conversion to integers, in one pass over memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from math import prod
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, canonical_layout, is_padded, pack, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers._quantized import Quantization
from softneuro_tvm.layers.quantized_elementwise import value
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import blocked_layouts
from .._int8 import LAYOUT
from .._rows import sweep
from .._tir import Expr, Kernel, ceil_div
from ..elementwise._functions import functions, is_supported, is_total
from ..elementwise._space import iteration_space

PARALLEL_ELEMENTS = 1 << 16
"""Fewer elements are computed on one thread: starting the others takes longer."""


class Fused(Routine):
    """Evaluates the expression in float32, vector by vector, without temporaries in memory.

    Axes along which all operands are contiguous, or all broadcast, are one loop; the innermost one is vectorised, its
    last vector overlaps the one before. Parallel over the outermost axis.

    Shapes: inputs and constants of any rank, broadcast to y; of rank 4 in NCHW, NCHWc or NHWC, all in the same layout.
    Error: one step of an integer output, because float32 may round a tie the other way; for a float32 output a few
    units in the last place for each operator.
    """

    kind = "quantized_elementwise"
    source = "Jacob et al., Quantization and Training of Neural Networks for Efficient Inference (CVPR 2018), 2"
    requirements = (
        Requirement(
            "operators with a vector form (not sin, cos or powers other than 1, 2, 3, 4 and 0.5)",
            lambda w, d: is_supported(w.attributes.expression),
        ),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One for each layout of the neighbours; padded ones only where padding lanes stay finite."""
        target = workload.outputs[0]
        layouts: tuple[str, ...] = (canonical_layout(target.rank),)
        if target.rank == 4 and all(tensor.rank == 4 for tensor in workload.inputs):
            is_float = any(tensor.dtype == "float32" for tensor in (*workload.inputs, target))
            others = (*blocked_layouts(device), "NHWC") if is_float else ()
            layouts = tuple(dict.fromkeys((LAYOUT, "NCHW", *others)))
        is_finite = target.dtype != "float32" or is_total(workload.attributes.expression)
        for layout in layouts:
            if is_finite or not is_padded(target.shape, layout):
                own = [layout if t.rank == target.rank else canonical_layout(t.rank) for t in workload.inputs]
                inputs = [Format(each, t.dtype) for each, t in zip(own, workload.inputs, strict=True)]
                yield Variant((), tuple(inputs), (Format(layout, target.dtype),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """One step, or what grows with the number of operators."""
        target = workload.outputs[0].dtype
        if target == "float32":
            return 2e-6 * (1 + len(workload.attributes.expression))
        return 1.01 / float(np.iinfo(target).max)

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Constants in the layout of the output."""
        rank, layout = workload.outputs[0].rank, variant.outputs[0].layout
        arrays = [weights[f"w{i}"] for i in range(workload.attributes.count("w"))]
        return tuple(pack(w.reshape(_widened(w.shape, rank)).astype("float32"), layout) for w in arrays)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x0, x1.., w0, w1.., y."""
        attributes, layout = workload.attributes, variant.outputs[0].layout
        constants = [workload.weight_types[f"w{i}"] for i in range(attributes.count("w"))]
        tensors = [*workload.inputs, *constants, *workload.outputs]
        shapes = [_widened(tensor.shape, workload.outputs[0].rank) for tensor in tensors]
        axes = iteration_space(shapes, shapes[-1], layout)
        count, threads = len(workload.inputs), device.threads if _is_long(workload) else 1
        if axes[0].extent < threads:
            threads = 1

        with Kernel() as k:
            buffers = []
            names = [*(f"x{i}" for i in range(count)), *(f"w{i}" for i in range(len(constants))), "y"]
            for name, tensor, shape in zip(names, tensors, shapes, strict=True):
                own = physical_shape(shape, layout) if tensor.rank == len(shape) else tensor.shape
                buffers.append((T.arg(name, T.buffer(own, tensor.dtype)), tensor.dtype))
            flat = [T.decl_buffer((prod(b.shape),), dtype, data=b.data) for b, dtype in buffers]

            def point(offsets: Sequence[Expr], lanes: int) -> None:
                loaded = [
                    k.bind(k.load(buffer, at, lanes) if stride else k.splat(buffer[at], lanes))
                    for buffer, at, stride in zip(flat[:-1], offsets[:-1], axes[-1].strides, strict=False)
                ]
                quantizations = (*attributes.inputs, *(None for _ in constants))
                numbers = [
                    x if own is None else k.pin(_number(x, own, lanes), lanes)
                    for x, own in zip(loaded, quantizations, strict=True)
                ]
                result = value(attributes, numbers[:count], numbers[count:], functions(lanes))
                if attributes.output is not None:
                    result = _integer(result, attributes.output, attributes.output_dtype, lanes)
                k.store(flat[-1], offsets[-1], result, lanes)

            with ExitStack() as loops:
                offsets: list[Expr] = [0] * len(flat)
                if threads > 1:
                    share = ceil_div(axes[0].extent, threads)
                    task = loops.enter_context(k.loop(threads, parallel=True))
                    first = k.bind(T.min(task * share, axes[0].extent - share))
                    offsets = [at + first * stride for at, stride in zip(offsets, axes[0].strides, strict=True)]
                extents = [share if threads > 1 else axes[0].extent, *(axis.extent for axis in axes[1:])]
                for axis, extent in zip(axes[:-1], extents[:-1], strict=True):
                    index = loops.enter_context(k.loop(extent))
                    offsets = [at + index * stride for at, stride in zip(offsets, axis.strides, strict=True)]
                offsets = [k.bind(at) for at in offsets]

                def vector(start: Expr, lanes: int) -> None:
                    point([at + start * s for at, s in zip(offsets, axes[-1].strides, strict=True)], lanes)

                sweep(k, extents[-1], device.vector_lanes, vector)
        return k.function


def _widened(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(shape)) + tuple(shape)


def _is_long(workload: Workload) -> bool:
    return prod(workload.outputs[0].shape) >= PARALLEL_ELEMENTS


def _typed(dtype: str, lanes: int) -> str:
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def _number(x: Expr, quantization: Quantization, lanes: int) -> Expr:
    """What a vector of integers stands for."""
    scale, zero_point = quantization
    centred = T.Cast(_typed("int32", lanes), x) - Kernel.splat(T.int32(zero_point), lanes)
    return T.Cast(_typed("float32", lanes), centred) * Kernel.splat(scale, lanes)


def _integer(x: Expr, quantization: Quantization, dtype: str, lanes: int) -> Expr:
    """The integers that stand for a vector of numbers."""
    limits, (step, zero_point) = np.iinfo(dtype), quantization
    numbers = (float(number) for number in (limits.min, limits.max, zero_point, step))
    low, high, zero, scale = (Kernel.splat(number, lanes) for number in numbers)
    shifted = T.max(T.min(T.nearbyint(x / scale) + zero, high), low)
    return T.Cast(_typed(dtype, lanes), T.Cast(_typed("int32", lanes), shifted))
