"""`softneuro-tvm explain`: why a plan chose what it chose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from softneuro_tvm.cli.options import Json
from softneuro_tvm.cli.plan_files import load_plan
from softneuro_tvm.cli.plan_tables import (
    comparison_lines,
    layer_text,
    memory_line,
    need_lines,
    plan_json,
    plan_table,
    thread_lines,
)
from softneuro_tvm.cli.tables import console, milliseconds, print_json, table
from softneuro_tvm.descriptor import Descriptor, parse
from softneuro_tvm.errors import PlanError
from softneuro_tvm.explanation import (
    adapter_sentences,
    candidate_text,
    choice_text,
    layer_sentence,
    layout_sentences,
    with_routine,
)
from softneuro_tvm.plan import LayerChoice, Plan


def explain(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="Plan (JSON) or built module (.so).")],
    layer: Annotated[
        str | None, typer.Option("--layer", help="Show every candidate of this layer, or of layers like 'layer1*'.")
    ] = None,
    routine: Annotated[
        str | None,
        typer.Option("--routine", help="Show where this was an option: winograd, conv2d/winograd, cpu/winograd/m=4."),
    ] = None,
    why: Annotated[bool, typer.Option("--why", help="Say in a sentence for each layer why it is as it is.")] = False,
    json_output: Json = False,
) -> None:
    """Show the chosen routine of every layer, the best other routine, the adapters, and what simpler plans would cost.

    "network + ms" is what the whole network loses if the other routine is used instead, with the best choices for all
    other layers, adapters included. Layers that one routine computes at once stand in one row; the candidates listed
    for them are those of the last of these layers.

    To force another choice and build it: `softneuro-tvm tune MODEL --force cpu/winograd/m=4@LAYER`.
    """
    plan, memory = load_plan(plan_file)
    choices = plan.layers if layer is None else _named(plan, layer)
    if json_output:
        asked = None if routine is None else _descriptor(plan, routine)
        print_json(plan_json(plan, choices, asked) | ({"memory": memory} if memory else {}))
    elif routine is not None:
        console.print(_routine_table(plan, choices, _descriptor(plan, routine)))
        console.print("Losses do not add up; `softneuro-tvm tune MODEL --routine ...` finds the best plan with all.")
    elif layer is not None:
        for choice in choices:
            console.print(_sentence(plan, choice), highlight=False)
            console.print(_layer_table(plan, choice))
    elif why:
        for line in _sentences(plan):
            console.print(line, highlight=False)
    else:
        console.print(plan_table(plan))
        for line in (*comparison_lines(plan), *thread_lines(plan), *need_lines(plan)):
            console.print(line)
        if memory:
            console.print(memory_line(memory))


def _sentence(plan: Plan, choice: LayerChoice) -> str:
    name = " + ".join(choice.covers) or choice.layer
    return f"[bold]{escape(name)}[/bold]: {escape(layer_sentence(plan, choice))}"


def _sentences(plan: Plan) -> Iterator[str]:
    yield from (_sentence(plan, choice) for choice in plan.layers)
    yield ""
    yield from map(escape, adapter_sentences(plan))
    yield from layout_sentences(plan)


def _named(plan: Plan, name: str) -> Sequence[LayerChoice]:
    """The choices for the layers of a name or pattern, or for composites that cover them."""
    found = [choice for choice in plan.layers if name in (choice.layer, *choice.covers)]
    found = found or [c for c in plan.layers if any(fnmatchcase(part, name) for part in c.covers or (c.layer,))]
    if not found:
        known = [part for choice in plan.layers for part in choice.covers or (choice.layer,)]
        close = get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "`softneuro-tvm explain PLAN` lists them"
        raise PlanError(f"the plan has no layer {name!r}; {hint}")
    return found


def _descriptor(plan: Plan, text: str) -> Descriptor:
    """A descriptor, or only the name of a routine or algorithm."""
    devices = {port.device for choice in plan.layers for port in choice.variant.outputs}
    asked = parse(text if text.partition("/")[0].partition(":")[0] in devices else f"{min(devices)}/{text}")
    if not any(True for _ in with_routine(plan, asked)):
        names = {choice.routine for choice in plan.layers}
        names |= {other.routine for choice in plan.layers for other in choice.alternatives}
        raise PlanError(f"{text!r} was no option for any layer; options were {', '.join(sorted(names))}")
    return asked


def _layer_table(plan: Plan, choice: LayerChoice) -> Table:
    rows = [[choice.descriptor, milliseconds(choice.median_s), f"{choice.spread:.1%}", "chosen"]]
    for other in choice.alternatives:
        lost = milliseconds(other.plan_s - plan.predicted_s)
        if other.measured:
            rows.append([other.descriptor, milliseconds(other.median_s), f"{other.spread:.1%}", f"network +{lost} ms"])
        else:
            least = f"not measured, network at least +{lost} ms"
            rows.append([other.descriptor, f">= {milliseconds(other.median_s)}", "-", least])
    rows += [[name, "-", "-", f"rejected: {reason.splitlines()[0][:90]}"] for name, reason in choice.rejected]
    columns = [("candidate", "left"), ("ms", "right"), ("spread", "right"), ("", "left")]
    return table(f"{escape(layer_text(choice))} ({choice.kind})", columns, rows)


def _routine_table(plan: Plan, choices: Sequence[LayerChoice], asked: Descriptor) -> Table:
    names = {choice.layer for choice in choices}
    rows = []
    for choice, found in with_routine(plan, asked):
        if choice.layer not in names:
            continue
        row = [escape(layer_text(choice)), choice_text(choice), milliseconds(choice.median_s)]
        if found is None:
            rows.append([*row, "chosen", "", ""])
        else:
            other = found.alternative
            least = "" if other.measured else ">= "
            times = [f"{least}{milliseconds(seconds)}" for seconds in (other.median_s, found.lost_s)]
            rows.append([*row, escape(candidate_text(other.descriptor)), *times])
    columns = [("layer", "left"), ("chosen", "left"), ("ms", "right")]
    other_columns = [(f"best {asked}", "left"), ("its ms", "right"), ("network + ms", "right")]
    return table(f"{plan.model}: {asked}", [*columns, *other_columns], rows)
