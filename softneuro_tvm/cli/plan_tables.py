"""A plan as tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from softneuro_tvm.cli.tables import milliseconds, table
from softneuro_tvm.descriptor import Descriptor
from softneuro_tvm.explanation import (
    Loss,
    adapter_sentences,
    candidate_text,
    layer_sentence,
    layout_sentences,
    other_routines,
    with_routine,
)
from softneuro_tvm.plan import FINALS, LayerChoice, Plan


def plan_table(plan: Plan) -> Table:
    """Layer, routine, layouts, ms, share, best other routine; adapters last."""
    total = max(plan.predicted_s, 1e-12)
    rows = []
    for choice in plan.layers:
        others = other_routines(plan, choice)
        rows.append(
            [
                escape(layer_text(choice)),
                choice.routine,
                _main_parameter(choice),
                _layouts(choice),
                milliseconds(choice.median_s),
                f"{choice.median_s / total:.1%}",
                *(_other(others[0]) if others else ("-", "-", "-")),
            ]
        )
    for adapter in plan.adapters:
        rows.append(
            [
                escape(adapter.tensor),
                "[dim]adapter[/dim]",
                "",
                f"{adapter.source.shown} > {adapter.target.shown}",
                milliseconds(adapter.median_s),
                f"{adapter.median_s / total:.1%}",
                "-",
                "-",
                "-",
            ]
        )
    columns = [
        ("layer", "left"),
        ("routine", "left"),
        ("", "left"),
        ("layout", "left"),
        ("ms", "right"),
        ("share", "right"),
        ("best other routine", "left"),
        ("its ms", "right"),
        ("network + ms", "right"),
    ]
    return table(f"{plan.model}: what was chosen", columns, rows)


def layer_text(choice: LayerChoice) -> str:
    """The layer's name, or those of the layers that are computed at once."""
    return f"covers {' + '.join(choice.covers)}" if choice.covers else choice.layer


def _main_parameter(choice: LayerChoice) -> str:
    """The parameter that says most: Winograd's output tile. `explain --layer` shows all."""
    params = dict(choice.variant.params)
    return f"m={params['m']}" if "m" in params else ""


def _other(found: Loss) -> tuple[str, str, str]:
    """Another routine, its time, and what the network loses with it; bounds where nobody timed it."""
    other = found.alternative
    least = "" if other.measured else ">= "
    name = candidate_text(other.descriptor.partition(" ")[0])
    return name, f"{least}{milliseconds(other.median_s)}", f"{least}{milliseconds(found.lost_s)}"


def _layouts(choice: LayerChoice) -> str:
    source = choice.variant.inputs[0].shown if choice.variant.inputs else "-"
    target = choice.variant.outputs[0].shown
    return target if source == target else f"{source} > {target}"


def comparison_lines(plan: Plan, samples_s: Sequence[float] = ()) -> Iterator[str]:
    """Predicted total against the whole as it was measured, and against simpler strategies."""
    adapters = sum(adapter.median_s for adapter in plan.adapters)
    proof = "proved optimal for these measurements"
    if plan.method == FINALS:
        proof = f"faster as a whole network than the best by prediction, {milliseconds(plan.lower_bound_s)} ms"
    elif plan.lower_bound_s < plan.predicted_s * (1 - 1e-9):
        proof = f"lower bound {milliseconds(plan.lower_bound_s)} ms"
    yield (
        f"predicted {milliseconds(plan.predicted_s)} ms ({len(plan.adapters)} adapters, {milliseconds(adapters)} ms); "
        f"{proof} ({plan.method})"
    )
    if samples_s:
        median_s, least_s = (f(samples_s) for f in (statistics.median, min))
        off, least_off = (
            f" ({s / plan.predicted_s - 1:+.1%}{what})" if plan.predicted_s else ""
            for s, what in ((median_s, " against predicted"), (least_s, ""))
        )
        yield f"measured  {milliseconds(median_s)} ms{off}; fastest run {milliseconds(least_s)} ms{least_off}"
    names = {
        "greedy": "fastest routine for each layer, adapters as needed",
        "beam": "beam search instead of an exact minimum",
        "no_adapters": "if adapters cost nothing",
        "no_covers": "each layer by itself",
    }
    for name, seconds in sorted(plan.comparison.items(), key=lambda item: item[1]):
        layout = name.partition(":")[2]
        label = f"{layout} wherever possible" if layout else names.get(name, name)
        times = f" ({seconds / plan.predicted_s:.2f}x)" if plan.predicted_s else ""
        yield f"  {milliseconds(seconds):>8} ms  {label}{times}"


def thread_lines(plan: Plan) -> Iterator[str]:
    """What was compared to choose the number of threads; nothing if it was given."""
    for entry in plan.tuning.get("threads", ()):
        count, stopped = entry["threads"], entry["stopped"]
        if entry["measured_s"] is not None:
            text = f"{milliseconds(entry['measured_s'])} ms measured, {milliseconds(entry['predicted_s'])} ms predicted"
        elif stopped == "slower":
            text = f"about {milliseconds(entry['predicted_s'])} ms expected by the cost model: not pursued"
        else:
            text = f"{milliseconds(entry['predicted_s'])} ms predicted, not timed as a whole"
        chosen = " (chosen)" if count == plan.device["threads"] else ""
        yield f"  {count:>2} thread(s): {text}{chosen}"


def need_lines(plan: Plan) -> Iterator[str]:
    """What the plan needs beside time, its limits, and the restrictions that it was made under."""
    names = {
        "memory_bytes": "activations",
        "weights_bytes": "weights",
        "workspace_bytes": "largest workspace",
        "accuracy": "sum of relative errors",
    }
    needs = []
    for name, value in plan.resources.items():
        limit = f" (limit {_amount(name, plan.limits[name])})" if name in plan.limits else ""
        needs.append(f"{names.get(name, name)} {_amount(name, value)}{limit}")
    if needs:
        yield ", ".join(needs)
    restrictions = plan.tuning.get("restrictions", {})
    if asked := [f"--{word} {text}" for word, texts in restrictions.items() for text in texts]:
        yield f"restricted by {' '.join(asked)}"


def _amount(name: str, value: float) -> str:
    return _megabytes(value) if name.endswith("_bytes") else f"{value:.2g}"


def _megabytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:.{1 if size_bytes >= 1e5 else 3}f} MB"


def memory_line(memory: Mapping[str, int]) -> str:
    """Bytes that a built module needs, from its manifest."""
    return (
        f"activations {_megabytes(memory['arena_bytes'])} (lower bound {_megabytes(memory['lower_bound_bytes'])}), "
        f"weights {_megabytes(memory['weights_bytes'])}, largest workspace {_megabytes(memory['workspace_bytes'])}"
    )


def plan_json(
    plan: Plan, choices: Sequence[LayerChoice] | None = None, asked: Descriptor | None = None
) -> dict[str, Any]:
    """The same as JSON values, and all that `explain` says.

    Args:
        plan: The plan.
        choices: Layers to tell of; all by default.
        asked: Tells also what is lost with these candidates.
    """
    shown = plan.layers if choices is None else choices
    found: dict[str, Any] = {
        "model": plan.model,
        "graph": plan.graph,
        "device": dict(plan.device),
        "predicted_s": plan.predicted_s,
        "lower_bound_s": plan.lower_bound_s,
        "method": plan.method,
        "comparison": dict(plan.comparison),
        "resources": dict(plan.resources),
        "limits": dict(plan.limits),
        "samples_s": list(plan.samples_s),
        "pareto": [dict(point) for point in plan.pareto],
        "tuning": dict(plan.tuning),
        "layers": [_choice_json(plan, choice) for choice in shown],
        "adapters": [
            {
                "tensor": a.tensor,
                "source": a.source.shown,
                "target": a.target.shown,
                "routine": a.routine,
                "median_s": a.median_s,
            }
            for a in plan.adapters
        ],
        "text": [*adapter_sentences(plan), *layout_sentences(plan)],
    }
    if asked is not None:
        names = {choice.layer for choice in shown}
        options = [(choice, loss) for choice, loss in with_routine(plan, asked) if choice.layer in names]
        found["routine"] = {
            "descriptor": str(asked),
            "layers": [
                {"layer": c.layer, **({"chosen": True} if loss is None else _loss_json(loss))} for c, loss in options
            ],
        }
    return found


def _choice_json(plan: Plan, choice: LayerChoice) -> dict[str, Any]:
    return {
        "layer": choice.layer,
        "covers": list(choice.covers),
        "kind": choice.kind,
        "descriptor": f"{choice.descriptor}@{choice.layer}",
        "routine": choice.routine,
        "layout": _layouts(choice),
        "reads": list(choice.inputs),
        "writes": list(choice.outputs),
        "median_s": choice.median_s,
        "spread": choice.spread,
        "error": choice.error,
        "share": choice.median_s / plan.predicted_s if plan.predicted_s else 0.0,
        "alternatives": [_finite(vars(a)) for a in choice.alternatives],
        "other_routines": [_loss_json(loss) for loss in other_routines(plan, choice)],
        "rejected": [list(pair) for pair in choice.rejected],
        "text": layer_sentence(plan, choice),
    }


def _loss_json(loss: Loss) -> dict[str, Any]:
    more = {"lost_s": loss.lost_s, "own_s": loss.own_s, "elsewhere_s": loss.elsewhere_s, "noise_s": loss.noise_s}
    return _finite(vars(loss.alternative) | {"chosen": False} | more)


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with null for what no plan can have: JSON knows no infinity."""
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}
