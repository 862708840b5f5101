"""`softneuro-tvm explain`: why a plan chose what it chose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from softneuro_tvm.cli.options import Json
from softneuro_tvm.cli.plan_tables import comparison_lines, layer_text, memory_line, plan_json, plan_table
from softneuro_tvm.cli.tables import console, milliseconds, print_json, table
from softneuro_tvm.errors import PlanError
from softneuro_tvm.plan import Plan


def explain(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="Plan (JSON) or built module (.so).")],
    layer: Annotated[str | None, typer.Option("--layer", help="Show every candidate of this layer.")] = None,
    json_output: Json = False,
) -> None:
    """Show the chosen routine of every layer, the runner-up, the adapters, and what simpler strategies would cost.

    "plan + ms" is what the whole network loses if the runner-up is used instead, adapters included. Layers that one
    routine computes at once stand in one row; the candidates listed for them are those of the last of these layers.
    """
    plan, memory = _load(plan_file)
    if json_output:
        print_json(plan_json(plan) | ({"memory": memory} if memory else {}))
        return
    if layer is None:
        console.print(plan_table(plan))
        for line in comparison_lines(plan):
            console.print(line)
        if memory:
            console.print(memory_line(memory))
        return
    chosen = next((c for c in plan.layers if layer in (c.layer, *c.covers)), None)
    if chosen is None:
        raise PlanError(f"the plan has no layer {layer!r}; `softneuro-tvm explain {plan_file}` lists them")
    rows = [[chosen.descriptor, milliseconds(chosen.median_s), f"{chosen.spread:.1%}", "chosen"]]
    for other in chosen.alternatives:
        lost = milliseconds(other.plan_s - plan.predicted_s)
        rows.append([other.descriptor, milliseconds(other.median_s), "", f"plan +{lost} ms"])
    rows += [[name, "-", "", f"rejected: {reason.splitlines()[0][:90]}"] for name, reason in chosen.rejected]
    columns = [("candidate", "left"), ("ms", "right"), ("spread", "right"), ("", "left")]
    console.print(table(f"{layer_text(chosen)} ({chosen.kind})", columns, rows))


def _load(path: Path) -> tuple[Plan, dict[str, int]]:
    """The plan, and the memory that a built module needs; a plan file does not say that."""
    if path.suffix == ".so":
        from softneuro_tvm.runtime import load_module

        module = load_module(path)
        return Plan.from_json(json.dumps(module.plan)), dict(module.manifest.get("memory", {}))
    return Plan.load(path), {}
