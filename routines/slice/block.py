"""Slices by copying runs of memory."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from math import prod
from typing import Any

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, block_of, canonical_layout, parse_layout, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Routine, Variant

from .._blocked import blocked_layouts
from .._copy import BLOCKED, COPYABLE, copy_lanes, copy_run, threads_for
from .._half import ROUNDING, also_in_float16
from .._tir import Expr, Kernel


@also_in_float16(lambda workload, variant: ROUNDING)
class Block(Routine):
    """Copies the runs of memory that a slice consists of, in loops over the axes outside.

    In NCHWc the channels must begin at a block and be consecutive. Parallel over the outermost axis.

    Shapes: any; canonical layouts, for rank 4 also NCHWc and NHWC. Error: none.
    """

    kind = "slice"
    source = "Harris et al., Array Programming with NumPy, Nature 2020 (strided views)"
    requirements = (COPYABLE,)

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One for each layout."""
        tensor = workload.outputs[0]
        layouts: tuple[str, ...] = (canonical_layout(tensor.rank),)
        if tensor.rank == 4 and tensor.dtype in BLOCKED:
            layouts = (*blocked_layouts(device), "NCHW", "NHWC")
        for layout in layouts:
            block = block_of(layout, "C")
            if block == 1 or (workload.attributes.begin[1] % block == 0 and workload.attributes.strides[1] == 1):
                yield Variant((), (Format(layout, tensor.dtype),), (Format(layout, tensor.dtype),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Exact."""
        return 0.0

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, y."""
        layout, (source,), (target,) = variant.outputs[0].layout, workload.inputs, workload.outputs
        shapes = [physical_shape(tensor.shape, layout) for tensor in (source, target)]
        canonical, a = canonical_layout(source.rank), workload.attributes
        axes = []
        for (name, block), extent, count in zip(parse_layout(layout), *shapes, strict=True):
            axis = canonical.index(name)
            begin, step = (0, 1) if block else (a.begin[axis] // block_of(layout, name), a.strides[axis])
            axes.append((begin, step, extent, count))
        whole = len(axes)  # axes from here on are copied as they are
        while whole and axes[whole - 1][1:3] == (1, axes[whole - 1][3]):
            whole -= 1
        inner = max(0, whole - 1) if whole and axes[whole - 1][1] == 1 else whole
        run = prod(count for *_, count in axes[inner:])
        lanes, threads = copy_lanes(workload, device), threads_for(workload, device)
        parts = threads if inner == 0 and run >= threads * lanes else 1
        with Kernel() as k, ExitStack() as loops:
            x, y = k.arguments(("x", shapes[0]), ("y", shapes[1]), dtype=target.dtype)
            part = loops.enter_context(k.loop(parts, True)) if parts > 1 else 0
            start: Expr = 0
            at: Expr = 0
            for position, (begin, step, extent, count) in enumerate(axes):
                index: Expr = 0
                if position < inner and count > 1:
                    index = loops.enter_context(k.loop(count, threads > 1 and position == 0))
                start, at = start * extent + begin + index * step, at * count + index
            copy_run(k, y, k.bind(at), x, k.bind(start), run, lanes, (part, parts))
        return k.function
