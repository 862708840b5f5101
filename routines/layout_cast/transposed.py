"""Copies a tensor into another layout: the adapter between routines that disagree."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, TensorType, block_of, canonical_layout, parse_layout, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import VIEW, Routine, Variant

from .._tir import Expr, Kernel, all_of, computing_in
from ._copies import Copy
from ._packed import Packed, element_order

PARALLEL_BYTES = 1 << 20
"""Smaller tensors are copied by one thread: starting the others takes as long."""

BYTES = 16
"""Elements of a vector of bytes: all machines permute 128 bits by single instructions."""


class Transposed(Routine):
    """Any layout into any other of the same rank.

    Between NCHW and NCHWc or NHWC: square tiles of channels x positions, transposed in vector registers. Between NCHWc
    layouts and NHWC: runs of channels. NCHW <-> NHWC with few channels: interleaving shuffles. All else, and element
    types other than floats and bytes: one element after the other, in the order of the target. A cast that leaves
    every element where it is, is a view. Padding lanes become 0 or keep what the source's padding holds.
    Parallel over channel blocks, or over positions where those are few.

    Shapes: x, y [N, C, ...]. Error: none.
    """

    kind = "layout_cast"
    source = "Eklundh, A Fast Computer Method for Matrix Transposing, IEEE Transactions on Computers 1972"

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One: the layouts are the workload's."""
        attributes, dtype = workload.attributes, workload.inputs[0].dtype
        yield Variant((), (Format(attributes.source, dtype),), (Format(attributes.target, dtype),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Exact."""
        return 0.0

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, y; or recognises a view."""
        tensor, source, target = workload.inputs[0], workload.attributes.source, workload.attributes.target
        if element_order(tensor.shape, source) == element_order(tensor.shape, target):
            return VIEW
        parallel = device.threads > 1 and tensor.size_bytes >= PARALLEL_BYTES
        views = Packed.of(tensor.shape, source), Packed.of(tensor.shape, target)
        with computing_in("float16" if tensor.dtype == "float16" else "float32"), Kernel() as k:
            shapes = [(name, physical_shape(tensor.shape, layout)) for name, layout in (("x", source), ("y", target))]
            x, y = k.arguments(*shapes, dtype=tensor.dtype)
            method = None
            lanes = {
                "float32": device.vector_lanes,
                "float16": 2 * device.vector_lanes,
                "int8": BYTES,
                "uint8": BYTES,
            }.get(tensor.dtype)
            if views[0] and views[1] and lanes:
                method = Copy(k, x, y, views[0], views[1], lanes, parallel, tensor.dtype).method()
            if method:
                method()
            else:
                _copy_elements(k, x, y, tensor, source, target, parallel)
        return k.function


def _copy_elements(k: Kernel, x: Any, y: Any, tensor: TensorType, source: str, target: str, parallel: bool) -> None:
    """One element after the other, in the order of the target; padding lanes become 0."""
    canonical, shape = canonical_layout(tensor.rank), physical_shape(tensor.shape, target)
    logical: dict[str, Expr] = dict.fromkeys(canonical, 0)
    with ExitStack() as loops:
        written: Expr = 0
        for position, ((axis, block), extent) in enumerate(zip(parse_layout(target), shape, strict=True)):
            index = loops.enter_context(k.loop(extent, parallel and position == 0))
            logical[axis] = logical[axis] + index * (1 if block else block_of(target, axis))
            written = written * extent + index
        read: Expr = 0
        for (axis, block), extent in zip(parse_layout(source), physical_shape(tensor.shape, source), strict=True):
            size = block_of(source, axis)
            read = read * extent + (logical[axis] % size if block else logical[axis] // size)
        extents = zip(canonical, tensor.shape, strict=True)
        inside = all_of(*(logical[axis] < extent for axis, extent in extents if extent % block_of(target, axis)))
        value = x[read] if inside is True else T.if_then_else(inside, x[read], T.Cast(tensor.dtype, 0))
        k.store(y, written, value, 1)
