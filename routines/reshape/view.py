"""Reshapes that move nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, canonical_layout, is_padded
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import VIEW, Routine, Variant

from .._blocked import blocked_layouts
from .._half import ROUNDING, also_in_float16
from ..layout_cast._packed import element_order


@also_in_float16(lambda workload, variant: ROUNDING)
class ViewReshape(Routine):
    """The same memory under another shape, wherever both layouts hold the elements in the same order.

    From and to canonical layouts; NCHWc and NHWC of one position (or one channel) count as canonical where no lanes are
    padding; NHWC to NHWC, and to NWC, where the axes of the map are joined or split.

    Shapes: any. Error: none.
    """

    kind = "reshape"
    source = "Harris et al., Array Programming with NumPy, Nature 2020 (views)"

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """Canonical layouts, then the others that hold the same."""
        (source,), (target,) = workload.inputs, workload.outputs
        blocked = blocked_layouts(device) if source.dtype in ("float32", "float16") else ()
        from_canonical = [[*_as_canonical(tensor.shape, blocked)] for tensor in (source, target)]
        pairs = [(x, y) for x in from_canonical[0] for y in from_canonical[1]]
        if _keeps_channels(source.shape, target.shape):
            pairs.append((_channels_last(source.rank), _channels_last(target.rank)))
        for x, y in dict.fromkeys(pairs):
            yield Variant((), (Format(x, source.dtype),), (Format(y, target.dtype),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Exact."""
        return 0.0

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Nothing runs."""
        return VIEW


def _as_canonical(shape: tuple[int, ...], blocked: Iterable[str]) -> Iterator[str]:
    """Layouts of a shape in which the elements lie as in the canonical layout."""
    canonical = canonical_layout(len(shape))
    yield canonical
    if len(shape) == 4:
        positions = shape[2] * shape[3]
        for layout in blocked:
            if positions == 1 and not is_padded(shape, layout):
                yield layout
        if element_order(shape, "NHWC") == element_order(shape, canonical):
            yield "NHWC"


def _channels_last(rank: int) -> str:
    canonical = canonical_layout(rank)
    return f"N{canonical[2:]}C"


def _keeps_channels(source: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """True if batch and channels stay and only the axes of the map change; both of ranks that have a layout."""
    return all(3 <= len(shape) <= 5 for shape in (source, target)) and source[:2] == target[:2]
