"""Concatenation by copying whole runs of memory."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, block_of, canonical_layout, parse_layout, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Routine, Variant

from .._blocked import blocked_layouts
from .._copy import BLOCKED, COPYABLE, copy_lanes, copy_run, threads_for
from .._half import ROUNDING, also_in_float16
from .._tir import Kernel


@also_in_float16(lambda workload, variant: ROUNDING)
class Blocks(Routine):
    """For each index of the axes outside the concatenated one, copies what each input holds there: one run of memory.

    In NCHWc along channels every input but the last must have whole blocks. Parallel over outer indices, or over parts
    of the runs where those are few.

    Shapes: any inputs of one rank and type; canonical layouts, for rank 4 also NCHWc and NHWC. Error: none.
    """

    kind = "concat"
    source = "Szegedy et al., Going Deeper with Convolutions, CVPR 2015 (filter concatenation)"
    requirements = (COPYABLE,)

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One for each layout in which the inputs are runs."""
        tensor, axis = workload.outputs[0], workload.attributes.axis
        layouts: tuple[str, ...] = (canonical_layout(tensor.rank),)
        if tensor.rank == 4 and tensor.dtype in BLOCKED:
            layouts = (*blocked_layouts(device), "NCHW", "NHWC")
        for layout in layouts:
            block = block_of(layout, "C")
            if axis != 1 or all(part.shape[1] % block == 0 for part in workload.inputs[:-1]):
                port = Format(layout, tensor.dtype)
                yield Variant((), (port,) * len(workload.inputs), (port,))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Exact."""
        return 0.0

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x0, x1.., y."""
        layout, tensor = variant.outputs[0].layout, workload.outputs[0]
        axis = [name for name, _ in parse_layout(layout)].index(canonical_layout(tensor.rank)[workload.attributes.axis])
        shapes = [physical_shape(part.shape, layout) for part in (*workload.inputs, tensor)]
        runs = [prod(shape[axis:]) for shape in shapes]
        outer, lanes, threads = prod(shapes[0][:axis]), copy_lanes(workload, device), threads_for(workload, device)
        parts = 1 if outer >= threads or min(runs) < threads * lanes else threads
        names = [*(f"x{i}" for i in range(len(workload.inputs))), "y"]
        with Kernel() as k:
            *inputs, y = k.arguments(*zip(names, shapes, strict=True), dtype=tensor.dtype)
            with k.loop(outer * parts, threads > 1) as task:
                index, begin = task // parts, 0
                for x, run in zip(inputs, runs, strict=False):
                    at = k.bind(index * runs[-1] + begin)
                    copy_run(k, y, at, x, k.bind(index * run), run, lanes, (task % parts, parts))
                    begin += run
        return k.function
