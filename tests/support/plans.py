"""Plans written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from softneuro_tvm.formats import Format
from softneuro_tvm.plan import AdapterChoice, Alternative, LayerChoice, Plan
from softneuro_tvm.routine import Variant

MS = 1e-3


def alternative(routine: str, layout: str, ms: float, plan_ms: float, **changes: Any) -> Alternative:
    """A candidate of another routine, or of the same in another layout."""
    return Alternative(routine, descriptor(routine, layout), ms * MS, plan_ms * MS, **changes)


def descriptor(routine: str, layout: str, params: Sequence[tuple[str, int]] = ()) -> str:
    text = f"cpu:float32:{layout.lower()}/{routine.partition('/')[2]}"
    return f"{text}/{','.join(f'{key}={value}' for key, value in params)}" if params else text


def choice(layer: str, routine: str, layout: str, ms: float, *others: Alternative, **changes: Any) -> LayerChoice:
    """A choice that reads and writes one layout, unless `reads` names another."""
    params = tuple(changes.pop("params", {}).items())
    ports = (Format(changes.pop("reads", layout)),), (Format(layout),)
    return LayerChoice(
        layer,
        changes.pop("kind", routine.partition("/")[0]),
        changes.pop("workload", "w"),
        routine,
        Variant(params, *ports),
        descriptor(routine, layout, params),
        ms * MS,
        changes.pop("spread", 0.0),
        others,
        **changes,
    )


def adapter(tensor: str, source: str, target: str, ms: float) -> AdapterChoice:
    variant = Variant((), (Format(source),), (Format(target),))
    return AdapterChoice(tensor, Format(source), Format(target), "layout_cast/transposed", variant, ms * MS)


def plan(*layers: LayerChoice, adapters: Sequence[AdapterChoice] = (), **changes: Any) -> Plan:
    """A plan whose total is the sum of its parts."""
    total = sum(part.median_s for part in (*layers, *adapters))
    device = {"name": "host", "target": {"kind": "llvm"}, "part": "p", "threads": 1}
    values: dict[str, Any] = {"model": "m", "graph": "g", "device": device, "predicted_s": total}
    values |= {"lower_bound_s": total, "method": "elimination"} | changes
    return Plan(layers=layers, adapters=tuple(adapters), **values)
