"""What differs between two plans: choices, adapters, device, and what became of the times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from softneuro_tvm.errors import PlanError
from softneuro_tvm.plan import AdapterChoice, LayerChoice, Plan

Choices = tuple[LayerChoice, ...]


@dataclass(frozen=True)
class LayerDifference:
    """Layers that two plans compute differently: one layer, or several if one of the plans computes them at once.

    Args:
        layers: Their names.
        before: What computes them in the first plan; nothing if it has no such layer.
        after: The same for the second plan.
    """

    layers: tuple[str, ...]
    before: Choices
    after: Choices

    @property
    def what(self) -> tuple[str, ...]:
        """What differs: layers, covers, workload, routine, layout, parameters."""
        if not self.before or not self.after:
            return ("layers",)
        if [choice.covers for choice in self.before] != [choice.covers for choice in self.after]:
            return ("covers",)
        found: dict[str, None] = {}
        for a, b in zip(self.before, self.after, strict=True):
            pairs = {
                "workload": (a.workload, b.workload),
                "routine": (a.routine, b.routine),
                "layout": ((a.variant.inputs, a.variant.outputs), (b.variant.inputs, b.variant.outputs)),
                "parameters": (a.variant.params, b.variant.params),
            }
            found |= {name: None for name, (first, second) in pairs.items() if first != second}
        return tuple(name for name in found if name != "parameters" or "routine" not in found)

    @property
    def seconds(self) -> tuple[float, float]:
        """Sums of the medians of both plans."""
        return _sum(self.before), _sum(self.after)


@dataclass(frozen=True)
class PlanDiff:
    """The difference of two plans.

    Args:
        layers: What is computed differently, in the first plan's order.
        removed: Adapters that only the first plan has.
        added: Adapters that only the second plan has.
        device: What differs of the device: pairs of values.
        model: How the models differ: ``weights``, ``layers``; nothing for the same model.
        predicted_s: Predicted seconds of both plans.
        remeasured_s: Seconds of the layers and adapters that both plans have: what differs is the measurement.
        resources: Pairs of what both plans need, None where a plan does not say.
        limits: Pairs of the bounds that differ.
    """

    layers: tuple[LayerDifference, ...]
    removed: tuple[AdapterChoice, ...]
    added: tuple[AdapterChoice, ...]
    device: Mapping[str, tuple[Any, Any]]
    model: str
    predicted_s: tuple[float, float]
    remeasured_s: tuple[float, float]
    resources: Mapping[str, tuple[float | None, float | None]]
    limits: Mapping[str, tuple[float | None, float | None]]

    @property
    def same(self) -> bool:
        """Whether both plans build the same module; times, resources and limits may differ."""
        return not (self.layers or self.removed or self.added or self.device or self.model)


def diff_plans(before: Plan, after: Plan) -> PlanDiff:
    """Compares two plans of one model, or of models that share layers by name.

    Raises:
        PlanError: the plans have no layer in common.
    """
    groups = list(_groups(before.layers, after.layers))
    if before.graph != after.graph and not any(a and b for _, a, b in groups):
        raise PlanError(
            f"the plans are for different models ({before.model} and {after.model}) that have no layer in common"
        )
    differences = [LayerDifference(*group) for group in groups if not _alike(group[1], group[2])]
    alike = [(a, b) for _, a, b in groups if _alike(a, b)]
    renewed = any("workload" in item.what or "layers" in item.what for item in differences)
    old, new = ({_key(adapter): adapter for adapter in plan.adapters} for plan in (before, after))
    both = old.keys() & new.keys()
    return PlanDiff(
        tuple(differences),
        tuple(adapter for key, adapter in old.items() if key not in new),
        tuple(adapter for key, adapter in new.items() if key not in old),
        _pairs(before.device, after.device),
        "" if before.graph == after.graph else "layers" if renewed else "weights",
        (before.predicted_s, after.predicted_s),
        (
            sum(_sum(a) for a, _ in alike) + sum(old[key].median_s for key in both),
            sum(_sum(b) for _, b in alike) + sum(new[key].median_s for key in both),
        ),
        {
            name: (before.resources.get(name), after.resources.get(name))
            for name in sorted({*before.resources, *after.resources})
        },
        _pairs(before.limits, after.limits),
    )


def _sum(choices: Iterable[LayerChoice]) -> float:
    return sum(choice.median_s for choice in choices)


def _pairs(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Values that differ, by key; None where there is none."""
    keys = sorted({*before, *after})
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _key(adapter: AdapterChoice) -> tuple[Any, ...]:
    """What makes adapters the same, whatever was measured."""
    return adapter.tensor, adapter.source, adapter.target, adapter.routine, adapter.variant


def _alike(before: Choices, after: Choices) -> bool:
    """Whether the same is built for some layers."""
    return [_built(choice) for choice in before] == [_built(choice) for choice in after]


def _built(choice: LayerChoice) -> tuple[Any, ...]:
    return choice.layer, choice.covers, choice.workload, choice.routine, choice.variant


def _parts(choice: LayerChoice) -> tuple[str, ...]:
    return choice.covers or (choice.layer,)


def _groups(before: Choices, after: Choices) -> Iterator[tuple[tuple[str, ...], Choices, Choices]]:
    """The finest groups of layers that both plans compute without the help of layers outside."""
    sides = [{part: choice for choice in choices for part in _parts(choice)} for choices in (before, after)]
    seen: set[str] = set()
    for name in [*sides[0], *sides[1]]:
        if name in seen:
            continue
        group = {name: None}
        waiting = [name]
        while waiting:
            part = waiting.pop()
            for side in sides:
                found = [p for p in _parts(side[part]) if p not in group] if part in side else []
                group |= dict.fromkeys(found)
                waiting += found
        seen |= set(group)
        yield (
            tuple(group),
            tuple(choice for choice in before if set(_parts(choice)) <= set(group)),
            tuple(choice for choice in after if set(_parts(choice)) <= set(group)),
        )
