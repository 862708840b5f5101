"""Plans that are worth having: no other one is faster and needs no more of a resource."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from softneuro_tvm.candidates import Candidates
from softneuro_tvm.device import Device
from softneuro_tvm.errors import SelectionError
from softneuro_tvm.graph import Graph
from softneuro_tvm.memory import ALIGNMENT
from softneuro_tvm.selection.limited import Found, LimitedProblem
from softneuro_tvm.selection.measured import Allowed, MeasuredNetwork, Profile
from softneuro_tvm.selection.pairwise import RELATIVE_GAP
from softneuro_tvm.selection.resources import Limits
from softneuro_tvm.selection.select import choose

logger = logging.getLogger(__name__)

Point = Mapping[str, Any]
"""A plan on a front: `predicted_s`, `lower_bound_s`, the resources by the names of `Limits`, and `axis`: the resource
that was traded for time. `select` under `Limits.at(point)` gives the plan."""

AXES = ("memory_bytes", "accuracy")
# What a front's axis shows, and in which unit.
_AXES = {
    "memory_bytes": ("peak of activations, MB", 1e6),
    "workspace_bytes": ("largest workspace, MB", 1e6),
    "weights_bytes": ("packed weights, MB", 1e6),
    "accuracy": ("sum of relative errors, 1e-6", 1e-6),
}
_LEAST_STEP = 1e-6


def pareto(
    graph: Graph,
    candidates: Candidates,
    profile: Profile,
    device: Device,
    *,
    limits: Limits | None = None,
    allowed: Allowed | None = None,
    axes: Sequence[str] = AXES,
    max_points: int = 16,
    time_limit_s: float = 60.0,
) -> tuple[Point, ...]:
    """The fronts of time against memory and of time against accuracy, exact.

    Each point is found as the fastest plan that needs less than the one before (the epsilon-constraint method), then,
    of equally fast ones, as the one that needs least. Where a front has more than `max_points`, points are left out
    evenly along the resource, and the ends are kept. Needs that differ by less than a millionth are not told apart.

    Args:
        graph: The network.
        candidates: What could compute each layer, adapters included.
        profile: Measurements.
        device: What was measured on.
        limits: What all plans must keep.
        allowed: Leaves out more candidates, as in `select`.
        axes: Resources to trade for time, by the names of `Limits`.
        max_points: Of each front.
        time_limit_s: For all together. When it is over the points found so far are returned.

    Returns:
        Front after front, the fastest point first.

    Raises:
        SelectionError: no plan keeps the limits.
    """
    network = MeasuredNetwork(graph, candidates, profile, device, allowed)
    deadline, limits = time.monotonic() + time_limit_s, limits or Limits()
    first = choose(network, limits, time_limit_s)
    start = Found(first.chosen, first.cost_s, first.resources, first.cost_s, first.lower_s, 0)
    found: list[Point] = []
    for axis in axes:
        points = trade(network.limited, start, axis, limits, max_points=max_points, deadline=deadline)
        found += [_point(each, axis) for each in points]
    return tuple(found)


def trade(
    problem: LimitedProblem, start: Found, axis: str, limits: Limits, *, max_points: int, deadline: float
) -> list[Found]:
    """The front of time against one resource.

    Args:
        problem: Choices, their times and their resources.
        start: The fastest choice that keeps the limits.
        axis: The resource.
        limits: What all choices must keep.
        max_points: Beyond so many, points are left out.
        deadline: When to stop, on the clock of `time.monotonic`.
    """
    points: list[Found] = []
    try:
        points.append(_thriftiest(problem, axis, start, limits, deadline))
        lowest = problem.minimise(axis, limits, deadline)
        assert lowest is not None  # the first point keeps the limits
        highest = points[0].resources[axis]
        least = ALIGNMENT if axis == "memory_bytes" else 1 if axis.endswith("bytes") else highest * _LEAST_STEP
        step = max((highest - lowest.value) / max(max_points - 1, 1), least)
        while points[-1].resources[axis] > lowest.value * (1 + RELATIVE_GAP) and time.monotonic() < deadline:
            bounds = replace(limits, **{axis: max(points[-1].resources[axis] - step, lowest.value)})
            found = problem.minimise("time_s", bounds, deadline)
            assert found is not None  # the lowest one keeps the bounds
            points.append(_thriftiest(problem, axis, found, bounds, deadline))
    except SelectionError as error:
        logger.warning("the front of %s is not complete: %s", axis, error)
    return points or [start]


def _thriftiest(problem: LimitedProblem, axis: str, found: Found, limits: Limits, deadline: float) -> Found:
    """Of the choices as fast as a given one, that which needs least of a resource."""
    least = problem.minimise(axis, limits, deadline, within_s=found.cost_s)
    as_fast = least is not None and least.cost_s <= found.cost_s * (1 + RELATIVE_GAP)
    if least is None or not as_fast or least.resources[axis] >= found.resources[axis]:
        return found
    return replace(least, value=least.cost_s, lower=min(found.lower, least.cost_s))


def _point(found: Found, axis: str) -> Point:
    return {"predicted_s": found.cost_s, "lower_bound_s": found.lower, **found.resources, "axis": axis}


def front_figure(points: Sequence[Point], path: str | Path) -> None:
    """Draws fronts as steps: time against what it costs.

    Args:
        points: As `pareto` returns them.
        path: PNG, SVG or PDF by its suffix.

    Raises:
        SelectionError: matplotlib is missing, or there are no points.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise SelectionError("a plot needs matplotlib: pip install 'softneuro_tvm[plots]'") from error
    axes = list(dict.fromkeys(point["axis"] for point in points))
    if not axes:
        raise SelectionError("there is nothing to plot: a front has at least one point")
    figure = Figure(figsize=(4.5 * len(axes), 3.4), layout="constrained")
    panels = figure.subplots(1, len(axes), squeeze=False)[0]
    for panel, axis in zip(panels, axes, strict=True):
        title, unit = _AXES[axis]
        own = [point for point in points if point["axis"] == axis]
        across = [point[axis] / unit for point in own]
        up = [point["predicted_s"] * 1e3 for point in own]
        panel.step(across, up, where="pre", color="#4C78A8", linewidth=1)
        panel.plot(across, up, "o", color="#4C78A8", markersize=4)
        panel.set_xlabel(title)
        panel.set_ylabel("predicted time, ms")
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
