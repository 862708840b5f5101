"""The page: one HTML file with everything in it, readable without a network and, but for sorting, without scripts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from softneuro_tvm.files import write_atomically
from softneuro_tvm.plan import LayerChoice, Plan
from softneuro_tvm.report import charts
from softneuro_tvm.report.network import network
from softneuro_tvm.report.numbers import Times, error, label, percent, quantity, shortened, size
from softneuro_tvm.report.timeline import Step, layouts, shown, steps

_COLOURS = 9
"""Kinds with a colour of their own, those that take the most time; the others share one."""
_CANDIDATES = 40
"""Candidates listed for a layer, best first; a plan may hold hundreds."""
_GAP = 1e-9


def write_report(plan: Plan, path: str | Path, manifest: Mapping[str, Any] | None = None) -> None:
    """Writes the page to a file, whole or not at all.

    Args:
        plan: What to show.
        path: File to write.
        manifest: Of the built module, if there is one: adds inputs, outputs, versions and memory as built.

    Raises:
        BuildError: the file cannot be written.
    """
    write_atomically(Path(path), render(plan, manifest).encode())


def render(plan: Plan, manifest: Mapping[str, Any] | None = None) -> str:
    """The page as text; see `write_report`."""
    style, script = _asset("style.css"), _asset("script.js")
    times = Times.of(plan.predicted_s)
    calls = steps(plan)
    totals = _by_kind(calls)
    colours = {kind: min(i, _COLOURS) for i, kind in enumerate(kind for kind in totals if kind != "conversion")}
    median_s = charts.quartiles(plan.samples_s)[1] if plan.samples_s else None
    return (
        _environment()
        .get_template("page.html")
        .render(
            plan=plan,
            manifest=manifest or {},
            style=Markup(style),
            script=Markup(script),
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            times=times,
            calls=calls,
            totals=totals,
            colours=colours,
            bars=charts.bars(plan),
            measured_s=median_s,
            quartiles=charts.quartiles(plan.samples_s) if plan.samples_s else None,
            gap=1 - plan.lower_bound_s / plan.predicted_s if plan.predicted_s else 0.0,
            is_optimal=plan.lower_bound_s >= plan.predicted_s * (1 - _GAP),
            slowest_s=max((choice.median_s for choice in plan.layers), default=0.0) or 1.0,
            adapters_s=sum(adapter.median_s for adapter in plan.adapters),
            axis=charts.timeline_ticks(plan.predicted_s, times),
            network=network(plan),
            fronts=charts.fronts(plan),
            most_candidates=_CANDIDATES,
            describe=lambda step: _described(step, plan, times),
            share=lambda seconds: seconds / plan.predicted_s if plan.predicted_s else 0.0,
            facts=lambda mapping: list(_facts(mapping)),
            used=lambda name: _used(plan, name),
        )
    )


@lru_cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("softneuro_tvm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "shortened": shortened,
        "label": label,
        "layouts": layouts,
        "algorithm": lambda routine: routine.partition("/")[2] or routine,
        "brief": _brief,
        "error": error,
        "breakable": _breakable,
        "shown": shown,
        "size": size,
        "place": lambda value: f"{value:.2f}".rstrip("0").rstrip("."),
    }
    environment.globals |= {"marks": charts.marks, "quantity": quantity}
    return environment


def _asset(name: str) -> str:
    return (files("softneuro_tvm.report") / "templates" / name).read_text(encoding="utf-8")


def _by_kind(calls: Iterable[Step]) -> dict[str, tuple[int, float]]:
    """Calls and seconds of each layer kind, those that take the most first; conversions last."""
    totals: dict[str, tuple[int, float]] = {}
    for step in calls:
        kind = step.work.kind if isinstance(step.work, LayerChoice) else "conversion"
        count, seconds = totals.get(kind, (0, 0.0))
        totals[kind] = (count + 1, seconds + step.work.median_s)
    return dict(sorted(totals.items(), key=lambda item: (item[0] == "conversion", -item[1][1], item[0])))


def _described(step: Step, plan: Plan, times: Times) -> str:
    """A call in one line: what a screen reader says of it and what hovering shows."""
    work = step.work
    share = work.median_s / plan.predicted_s if plan.predicted_s else 0.0
    taken = f"{times.full(work.median_s)}, {percent(share)} of the network, from {times.full(step.start_s)}"
    if isinstance(work, LayerChoice):
        return f"{step.name}: {work.kind} by {work.routine}, {layouts(work)}. {taken}"
    return f"{step.name}: conversion, {layouts(work)}. {taken}"


def _brief(descriptor: str) -> str:
    """Algorithm and layout of a candidate."""
    where, _, rest = descriptor.partition("/")
    return f"{rest.partition('/')[0]} {where.rpartition(':')[2]}"


def _breakable(text: str) -> Markup:
    """A descriptor that lines may break after a comma or slash."""
    return Markup(str(escape(text)).replace(",", ",<wbr>").replace("/", "/<wbr>"))


def _used(plan: Plan, name: str) -> float | None:
    """Share of a limit that the plan uses; None without a limit."""
    limit = plan.limits.get(name)
    return plan.resources[name] / limit if limit else None


def _facts(mapping: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Names and values as text; inner mappings become names of several words."""
    for key, value in mapping.items():
        name = f"{prefix} {label(str(key))}".strip()
        if isinstance(value, Mapping):
            yield from _facts(value, name)
        elif isinstance(value, list | tuple | set | frozenset):
            yield name, ", ".join(map(str, value)) or "none"
        else:
            yield name, quantity(str(key), value)
