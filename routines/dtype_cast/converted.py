"""Copies a tensor into another element type, and another layout at once: the adapter around float16 routines."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._copy import PARALLEL_BYTES, copy_run
from .._half import HALF, ROUNDING, SINGLE
from .._tir import Expr, Kernel, cast, computing_in
from ..layout_cast._copies import Copy
from ..layout_cast._packed import Packed, element_order
from ..layout_cast.transposed import _copy_elements


class _Converting(Kernel):
    """A kernel whose values are float16: what it loads and stores is converted from and to the buffers' types."""

    @staticmethod
    def load(buffer: Any, offset: Expr, lanes: int) -> Expr:
        """`lanes` consecutive elements, as float16."""
        value = Kernel.load(buffer, offset, lanes)
        return value if buffer.dtype == HALF else cast(value, HALF, lanes)

    @staticmethod
    def store(buffer: Any, offset: Expr, value: Expr, lanes: int) -> None:
        """Stores a vector of `lanes` elements in the buffer's type."""
        Kernel.store(buffer, offset, cast(value, str(buffer.dtype), lanes), lanes)


class Converted(Routine):
    """float32 to float16 and back, from any layout into any other of the same rank.

    The loops are those of `layout_cast/transposed`, with float16 between load and store: vectors of twice the lanes,
    half as many shuffles. Where the order of elements stays, runs of vectors are converted.
    Parallel as those loops are.

    Shapes: x, y [N, C, ...]. Error: rounding to float16, 2^-11; none the other way. Beyond 65504 it is infinite.
    """

    kind = "dtype_cast"
    source = "IEEE Standard for Floating-Point Arithmetic (IEEE 754-2008), binary16"
    requirements = (
        Requirement(
            "float32 on one side and float16 on the other",
            lambda w, d: {w.inputs[0].dtype, w.outputs[0].dtype} == {SINGLE, HALF},
        ),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One: layouts and types are the workload's."""
        attributes, (source,), (target,) = workload.attributes, workload.inputs, workload.outputs
        read, written = Format(attributes.source, source.dtype), Format(attributes.target, target.dtype)
        yield Variant((), (read,), (written,))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Half a unit in the last place of float16, where that is written."""
        return ROUNDING if variant.outputs[0].dtype == HALF else 0.0

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, y."""
        with computing_in(HALF):
            return _write(workload, device.computing_in(HALF))


def _write(workload: Workload, device: Device) -> Any:
    (source_type,), (target_type,) = workload.inputs, workload.outputs
    shape, layouts = source_type.shape, (workload.attributes.source, workload.attributes.target)
    parallel = device.threads > 1 and 4 * prod(shape) >= PARALLEL_BYTES
    shapes = [physical_shape(shape, layout) for layout in layouts]
    views = [Packed.of(shape, layout) for layout in layouts]
    with _Converting() as k:
        x, y = k.arguments(*zip("xy", shapes, strict=True), dtype=(source_type.dtype, target_type.dtype))
        if element_order(shape, layouts[0]) == element_order(shape, layouts[1]):
            elements = prod(shapes[0])
            parts = device.threads if parallel and elements >= device.threads * device.vector_lanes else 1
            with k.loop(parts, parts > 1) as part:
                copy_run(k, y, 0, x, 0, elements, device.vector_lanes, (part, parts))
        else:
            method = None
            if views[0] and views[1]:
                method = Copy(k, x, y, views[0], views[1], device.vector_lanes, parallel, HALF).method()
            if method:
                method()
            else:
                _copy_elements(k, x, y, source_type, *layouts, parallel)
    return k.function
