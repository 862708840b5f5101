"""`softneuro-tvm plan`: what differs between plans."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from softneuro_tvm.cli.options import Json
from softneuro_tvm.cli.plan_files import load_plan
from softneuro_tvm.cli.tables import console, milliseconds, print_json, table
from softneuro_tvm.errors import SoftNeuroError
from softneuro_tvm.explanation import choice_text
from softneuro_tvm.plan import AdapterChoice
from softneuro_tvm.plan_diff import Choices, LayerDifference, PlanDiff, diff_plans

app = typer.Typer(no_args_is_help=True, help="Compare plans.")

_DIFFERENT = 1
_TROUBLE = 2


@app.callback()
def plan() -> None:
    """Compare plans."""


@app.command("diff")
def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="Plan (JSON) or built module (.so).")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Plan (JSON) or built module (.so).")],
    json_output: Json = False,
) -> None:
    """Show what plan B does differently from plan A: routines, parameters, layouts, adapters, and what it is worth.

    Exits like diff: 0 if both build the same module, whatever the times; 1 if they differ; 2 in case of trouble.
    """
    try:
        first, second = load_plan(before)[0], load_plan(after)[0]
        found = diff_plans(first, second)
    except SoftNeuroError as error:
        sys.stderr.write(f"error: {error}\n")
        raise typer.Exit(_TROUBLE) from error
    if json_output:
        print_json(_json(found))
    else:
        _show(found)
    if not found.same:
        raise typer.Exit(_DIFFERENT)


def _show(found: PlanDiff) -> None:
    if found.layers:
        columns = [("layer", "left"), ("what", "left"), ("A", "left"), ("B", "left")]
        times = [("A ms", "right"), ("B ms", "right"), ("change", "right")]
        rows = [
            [
                escape(" + ".join(item.layers)),
                ", ".join(item.what),
                *_choices(item),
                *(milliseconds(seconds) for seconds in item.seconds),
                _change(*item.seconds),
            ]
            for item in found.layers
        ]
        console.print(table("computed differently", [*columns, *times], rows))
    for word, adapters in (("only in A", found.removed), ("only in B", found.added)):
        for adapter in adapters:
            console.print(f"adapter {word}: {escape(_adapter(adapter))}", highlight=False)
    for line in _lines(found):
        console.print(line, highlight=False)


def _choices(item: LayerDifference) -> tuple[str, str]:
    """Both sides in short; parameters only where they are what differs."""
    if item.what == ("parameters",):
        sides = [dict(choices[0].variant.params) for choices in (item.before, item.after)]
        keys = [key for key in dict.fromkeys([*sides[0], *sides[1]]) if sides[0].get(key) != sides[1].get(key)]
        first, second = (",".join(f"{key}={side[key]}" for key in keys if key in side) for side in sides)
        return f"{choice_text(item.before[0])} {first}", second
    return _texts(item.before), _texts(item.after)


def _texts(choices: Choices) -> str:
    return "; ".join(choice_text(choice) for choice in choices) or "-"


def _adapter(adapter: AdapterChoice) -> str:
    return (
        f"{adapter.tensor} from {adapter.source.shown} to {adapter.target.shown}, {milliseconds(adapter.median_s)} ms"
    )


def _change(before: float, after: float) -> str:
    return f"{(after - before) * 1e3:+.4f} ms"


def _lines(found: PlanDiff) -> Iterator[str]:
    """Totals, and what else differs."""
    before, after = found.predicted_s
    relative = f" ({after / before - 1:+.1%})" if before else ""
    yield f"predicted {milliseconds(before)} ms -> {milliseconds(after)} ms{relative}"
    layers = (sum(item.seconds[0] for item in found.layers), sum(item.seconds[1] for item in found.layers))
    adapters = (sum(adapter.median_s for adapter in found.removed), sum(adapter.median_s for adapter in found.added))
    yield (
        f"  layers that differ {_change(*layers)}, adapters {_change(*adapters)}, "
        f"other measurements of the same {_change(*found.remeasured_s)}"
    )
    for name, (first, second) in found.resources.items():
        if first != second:
            yield f"{name}: {_value(first)} -> {_value(second)}"
    for name, (first, second) in found.limits.items():
        yield f"limit of {name}: {_value(first)} -> {_value(second)}"
    for name, values in found.device.items():
        yield f"device {name}: {values[0]} -> {values[1]}"
    if found.model == "weights":
        yield "the models differ in their weights only"
    elif found.model:
        yield "the models differ; only layers of the same name are compared"
    if found.same:
        yield "both build the same module"


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:,.6g}"


def _json(found: PlanDiff) -> dict[str, Any]:
    def side(choices: Choices) -> list[dict[str, Any]]:
        return [
            {"layer": c.layer, "routine": c.routine, "descriptor": c.descriptor, "median_s": c.median_s}
            for c in choices
        ]

    def adapter(choice: AdapterChoice) -> dict[str, Any]:
        return {
            "tensor": choice.tensor,
            "source": str(choice.source),
            "target": str(choice.target),
            "routine": choice.routine,
            "median_s": choice.median_s,
        }

    return {
        "same": found.same,
        "layers": [
            {
                "layers": list(item.layers),
                "what": list(item.what),
                "before": side(item.before),
                "after": side(item.after),
                "median_s": list(item.seconds),
            }
            for item in found.layers
        ],
        "adapters": {"removed": [adapter(a) for a in found.removed], "added": [adapter(a) for a in found.added]},
        "device": {name: list(values) for name, values in found.device.items()},
        "model": found.model,
        "predicted_s": list(found.predicted_s),
        "remeasured_s": list(found.remeasured_s),
        "resources": {name: list(values) for name, values in found.resources.items()},
        "limits": {name: list(values) for name, values in found.limits.items()},
    }
