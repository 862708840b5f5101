"""When each layer and each conversion of a plan runs, by the predicted times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from softneuro_tvm.formats import Format
from softneuro_tvm.plan import AdapterChoice, LayerChoice, Plan


@dataclass(frozen=True)
class Step:
    """One call of a kernel.

    Args:
        work: What is called.
        index: Its place among the plan's layers or adapters.
        start_s: Seconds from the beginning of the network.
    """

    work: LayerChoice | AdapterChoice
    index: int
    start_s: float

    @property
    def name(self) -> str:
        """Of the layer, or of the tensor that is converted."""
        return self.work.layer if isinstance(self.work, LayerChoice) else self.work.tensor

    @property
    def title(self) -> str:
        """The name; for layers that are computed at once, the first and how many more."""
        covers = self.work.covers if isinstance(self.work, LayerChoice) else ()
        return f"{covers[0]} +{len(covers) - 1}" if len(covers) > 1 else self.name

    @property
    def is_adapter(self) -> bool:
        """True for a conversion."""
        return isinstance(self.work, AdapterChoice)


def steps(plan: Plan) -> tuple[Step, ...]:
    """Layers in the plan's order; a conversion right before its first reader, those of the model's outputs last."""
    found, now = [], 0.0
    for work, index in _calls(plan):
        found.append(Step(work, index, now))
        now += work.median_s
    return tuple(found)


def layouts(work: LayerChoice | AdapterChoice) -> str:
    """Like ``NCHW > NCHW16c``, or one layout if it stays."""
    if isinstance(work, AdapterChoice):
        return f"{shown(work.source)} > {shown(work.target)}"
    source = shown(work.variant.inputs[0]) if work.variant.inputs else "-"
    target = shown(work.variant.outputs[0])
    return target if source == target else f"{source} > {target}"


def shown(port: Format) -> str:
    """The layout; with its element type where that is not float32."""
    return port.shown


def _calls(plan: Plan) -> Iterator[tuple[LayerChoice | AdapterChoice, int]]:
    waiting = {(adapter.tensor, adapter.target): index for index, adapter in enumerate(plan.adapters)}
    for index, choice in enumerate(plan.layers):
        for key in zip(choice.inputs, choice.variant.inputs, strict=False):
            if key in waiting:
                number = waiting.pop(key)
                yield plan.adapters[number], number
        yield choice, index
    for number in waiting.values():
        yield plan.adapters[number], number
