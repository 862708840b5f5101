"""What the kernels of a network take within it, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from softneuro_tvm.cli.tables import milliseconds, table
from softneuro_tvm.step_times import StepTime, by_name


def steps_table(times: Sequence[StepTime], whole_s: float) -> Table:
    """Layer, routine, ms by itself and within the network, their ratio, share of the whole; the rest last.

    Args:
        times: Of all steps.
        whole_s: Of a run of the network.
    """
    rows, expected_s = [], 0.0
    found = list(by_name(times).values())
    for each in found:
        alone_s = each.step.expected_s
        expected_s += alone_s or 0.0
        rows.append(
            [
                escape(each.step.name) or "-",
                escape(each.step.routine),
                milliseconds(alone_s) if alone_s else "-",
                milliseconds(each.seconds),
                _ratio(each.seconds, alone_s),
                f"{each.seconds / whole_s:.1%}",
            ]
        )
    spent_s = sum(each.seconds for each in found)
    rest_s = max(0.0, whole_s - spent_s)
    rows.append(["[dim]between kernels[/dim]", "", "-", milliseconds(rest_s), "-", f"{rest_s / whole_s:.1%}"])
    ratio = _ratio(whole_s, expected_s)
    rows.append(["[bold]whole[/bold]", "", milliseconds(expected_s), milliseconds(whole_s), ratio, "100.0%"])
    columns = [("layer", "left"), ("routine", "left"), ("by itself, ms", "right"), ("in the network, ms", "right")]
    return table("layers in the order they run", [*columns, ("ratio", "right"), ("share", "right")], rows)


def steps_json(times: Sequence[StepTime]) -> list[Mapping[str, Any]]:
    """One object for each kernel call."""
    return [
        {"layer": e.step.name, "routine": e.step.routine, "by_itself_s": e.step.expected_s, "seconds": e.seconds}
        for e in times
    ]


def _ratio(measured_s: float, expected_s: float | None) -> str:
    return f"{measured_s / expected_s:.2f}" if expected_s else "-"
