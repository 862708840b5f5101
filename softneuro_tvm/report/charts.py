"""Charts as values that templates draw: positions in percent of an axis."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from softneuro_tvm.plan import FINALS, LayerChoice, Plan
from softneuro_tvm.report.numbers import Times, label, quantity

_CUT = 4.0
"""Candidates slower than this many times the chosen one lie beyond the axis."""

STRATEGIES = {
    "greedy": "Fastest routine of each layer",
    "beam": "Beam search",
    "no_adapters": "If conversions cost nothing",
    "no_covers": "Each layer by itself",
}


@dataclass(frozen=True)
class Bar:
    """A labelled bar that starts at zero.

    Args:
        label: What it shows.
        value_s: Seconds.
        role: ``plan``, ``measured``, ``bound`` or ``other``; for its colour.
        low_s: Lower end of its interval; equal to `high_s` where there is none.
        high_s: Upper end.
    """

    label: str
    value_s: float
    role: str
    low_s: float = 0.0
    high_s: float = 0.0


@dataclass(frozen=True)
class Mark:
    """A candidate on its layer's axis.

    Args:
        state: ``chosen``, ``measured`` or ``predicted``.
        descriptor: As users write it.
        median_s: Seconds; a lower bound if predicted.
        spread: Interquartile range over the median.
        lost_s: What the whole plan loses if it is used instead.
        low: Lower end of the interval, percent of the axis.
        high: Upper end, at most 100.
        at: The median, at most 100.
        is_cut: True if it lies beyond the axis.
    """

    state: str
    descriptor: str
    median_s: float
    spread: float
    lost_s: float
    low: float
    high: float
    at: float
    is_cut: bool


def bars(plan: Plan) -> tuple[Bar, ...]:
    """The plan, the measured network, the bound and the simpler strategies, fastest strategy first."""
    found = [Bar("This plan, predicted", plan.predicted_s, "plan")]
    if plan.samples_s:
        low, median, high = quartiles(plan.samples_s)
        found.append(Bar("This plan, measured", median, "measured", low, high))
    if plan.lower_bound_s < plan.predicted_s * (1 - 1e-9):
        text = "The best plan by prediction" if plan.method == FINALS else "No plan is faster than"
        found.append(Bar(text, plan.lower_bound_s, "bound"))
    for name, seconds in sorted(plan.comparison.items(), key=lambda item: item[1]):
        if not math.isfinite(seconds):
            continue
        layout = name.partition(":")[2]
        text = STRATEGIES.get(name) or (f"{layout} throughout" if layout else label(name).capitalize())
        found.append(Bar(text, seconds, "other"))
    return tuple(found)


def quartiles(samples_s: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(samples_s) < 2:
        return samples_s[0], samples_s[0], samples_s[0]
    low, median, high = statistics.quantiles(samples_s, n=4, method="inclusive")
    return low, median, high


def marks(choice: LayerChoice, predicted_s: float) -> tuple[tuple[Mark, ...], float]:
    """The candidates of a layer, the chosen one first, and the end of their axis in seconds."""
    rows = [("chosen", choice.descriptor, choice.median_s, choice.spread, 0.0)]
    for other in choice.alternatives:
        state = "measured" if other.measured else "predicted"
        rows.append((state, other.descriptor, other.median_s, other.spread, other.plan_s - predicted_s))
    highest = max((m * (1 + s / 2) for _, _, m, s, _ in rows if math.isfinite(m)), default=0.0)
    end = min(highest * 1.04, choice.median_s * _CUT) if choice.median_s > 0 else highest
    end = end or 1e-9
    found = []
    for state, descriptor, median, spread, lost in rows:
        low, at, high = (min(100.0, 100 * median * (1 + side * spread / 2) / end) for side in (-1, 0, 1))
        found.append(Mark(state, descriptor, median, spread, lost, max(0.0, low), high, at, median > end))
    return tuple(found), end


def ticks(end: float, most: int = 8) -> tuple[float, ...]:
    """Round numbers from 0 to at most `end`, at least two of them."""
    if end <= 0:
        return (0.0,)
    step = 10.0 ** math.floor(math.log10(end / most))
    step = next(step * factor for factor in (1, 2, 5, 10, 20) if end / (step * factor) <= most)
    return tuple(i * step for i in range(math.floor(end / step + 1e-9) + 1))


def timeline_ticks(total_s: float, times: Times) -> tuple[tuple[float, str], ...]:
    """Percent and text of the ticks of a time axis."""
    steps = ticks(total_s * times.scale)
    return tuple((100 * tick / (total_s * times.scale), f"{tick:g}") for tick in steps) if total_s > 0 else ()


@dataclass(frozen=True)
class Scatter:
    """Predicted time against one resource.

    Args:
        resource: What lies along the axis.
        points: Percent along, percent up, text, and whether it is this plan.
        x_ticks: Percent and text.
        y_ticks: Percent and text.
    """

    resource: str
    points: tuple[tuple[float, float, str, bool], ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def fronts(plan: Plan) -> tuple[Scatter, ...]:
    """One chart for each resource in which the plans worth having differ."""
    points: list[Mapping[str, Any]] = [p for p in plan.pareto if math.isfinite(float(p.get("predicted_s", math.nan)))]
    names = [name for name in plan.resources if len({p[name] for p in points if name in p}) > 1]
    return tuple(_scatter(plan, [p for p in points if name in p], name) for name in names)


def _scatter(plan: Plan, points: Sequence[Mapping[str, Any]], name: str) -> Scatter:
    times = Times.of(plan.predicted_s)
    across, up = _Range([float(p[name]) for p in points]), _Range([float(p["predicted_s"]) for p in points])
    found = []
    for point in points:
        chosen = point["predicted_s"] == plan.predicted_s and point[name] == plan.resources[name]
        text = f"{times.full(point['predicted_s'])}, {label(name)} {quantity(name, point[name])}"
        found.append((across(point[name]), up(point["predicted_s"]), text, chosen))
    return Scatter(
        label(name),
        tuple(found),
        tuple((across(value), quantity(name, value)) for value in across.ticks()),
        tuple((up(value), times(value)) for value in up.ticks()),
    )


class _Range:
    """Maps the values of an axis to 6 .. 94 percent."""

    def __init__(self, values: Sequence[float]) -> None:
        self.low, self.high = min(values), max(values)

    def __call__(self, value: float) -> float:
        extent = self.high - self.low
        return 6 + 88 * (value - self.low) / extent if extent > 0 else 50.0

    def ticks(self) -> tuple[float, ...]:
        return (
            tuple(self.low + (self.high - self.low) * i / 4 for i in range(5)) if self.high > self.low else (self.low,)
        )
