"""A plan as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from softneuro_tvm.cli.tables import milliseconds, table
from softneuro_tvm.plan import Alternative, LayerChoice, Plan


def plan_table(plan: Plan) -> Table:
    """Layer, routine, layouts, ms, share, runner-up; adapters last."""
    total = max(plan.predicted_s, 1e-12)
    rows = []
    for choice in plan.layers:
        runner_up = choice.alternatives[0] if choice.alternatives else None
        rows.append(
            [
                layer_text(choice),
                choice.routine,
                _main_parameter(choice),
                _layouts(choice),
                milliseconds(choice.median_s),
                f"{choice.median_s / total:.1%}",
                _short(runner_up) if runner_up else "-",
                milliseconds(runner_up.median_s) if runner_up else "-",
                milliseconds(runner_up.plan_s - plan.predicted_s) if runner_up else "-",
            ]
        )
    for adapter in plan.adapters:
        rows.append(
            [
                f"{adapter.tensor}",
                "[dim]adapter[/dim]",
                "",
                f"{adapter.source.layout} > {adapter.target.layout}",
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
        ("runner-up", "left"),
        ("its ms", "right"),
        ("plan + ms", "right"),
    ]
    return table(f"{plan.model}: what was chosen", columns, rows)


def layer_text(choice: LayerChoice) -> str:
    """The layer's name, or those of the layers that are computed at once."""
    return f"covers {' + '.join(choice.covers)}" if choice.covers else choice.layer


def _main_parameter(choice: LayerChoice) -> str:
    """The parameter that says most: Winograd's output tile. `explain --layer` shows all."""
    params = dict(choice.variant.params)
    return f"m={params['m']}" if "m" in params else ""


def _short(alternative: Alternative) -> str:
    """Algorithm and layout of a candidate."""
    where, _, rest = alternative.descriptor.partition("/")
    return f"{rest.partition('/')[0]} {where.rpartition(':')[2]}"


def _layouts(choice: LayerChoice) -> str:
    source = choice.variant.inputs[0].layout if choice.variant.inputs else "-"
    target = choice.variant.outputs[0].layout
    return target if source == target else f"{source} > {target}"


def comparison_lines(plan: Plan, measured_s: float | None = None) -> Iterator[str]:
    """Predicted total against the measured whole, and against simpler strategies."""
    adapters = sum(adapter.median_s for adapter in plan.adapters)
    proof = "proved optimal for these measurements"
    if plan.lower_bound_s < plan.predicted_s * (1 - 1e-9):
        proof = f"lower bound {milliseconds(plan.lower_bound_s)} ms"
    yield (
        f"predicted {milliseconds(plan.predicted_s)} ms ({len(plan.adapters)} adapters, {milliseconds(adapters)} ms); "
        f"{proof} ({plan.method})"
    )
    if measured_s is not None:
        yield f"measured  {milliseconds(measured_s)} ms ({measured_s / plan.predicted_s - 1:+.1%} against predicted)"
    names = {
        "greedy": "fastest routine for each layer, adapters as needed",
        "no_adapters": "if adapters cost nothing",
        "no_covers": "each layer by itself",
    }
    for name, seconds in sorted(plan.comparison.items(), key=lambda item: item[1]):
        label = names.get(name) or f"one layout throughout, {name.partition(':')[2]}"
        yield f"  {milliseconds(seconds):>8} ms  {label} ({seconds / plan.predicted_s:.2f}x)"


def memory_line(memory: Mapping[str, int]) -> str:
    """Bytes that a built module needs, from its manifest."""

    def megabytes(key: str) -> str:
        return f"{memory[key] / 1e6:.{1 if memory[key] >= 1e5 else 3}f} MB"

    return (
        f"activations {megabytes('arena_bytes')} (lower bound {megabytes('lower_bound_bytes')}), "
        f"weights {megabytes('weights_bytes')}, largest workspace {megabytes('workspace_bytes')}"
    )


def plan_json(plan: Plan) -> dict[str, Any]:
    """The same as JSON values."""
    return {
        "model": plan.model,
        "predicted_s": plan.predicted_s,
        "lower_bound_s": plan.lower_bound_s,
        "method": plan.method,
        "comparison": dict(plan.comparison),
        "layers": [
            {
                "layer": c.layer,
                "covers": list(c.covers),
                "kind": c.kind,
                "descriptor": f"{c.descriptor}@{c.layer}",
                "routine": c.routine,
                "layout": _layouts(c),
                "median_s": c.median_s,
                "spread": c.spread,
                "share": c.median_s / plan.predicted_s if plan.predicted_s else 0.0,
                "alternatives": [vars(a) for a in c.alternatives],
                "rejected": [list(pair) for pair in c.rejected],
            }
            for c in plan.layers
        ],
        "adapters": [
            {
                "tensor": a.tensor,
                "source": a.source.layout,
                "target": a.target.layout,
                "routine": a.routine,
                "median_s": a.median_s,
            }
            for a in plan.adapters
        ],
    }
