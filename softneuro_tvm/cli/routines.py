"""`softneuro-tvm routines`: the catalogue."""

from __future__ import annotations

import inspect
from typing import Any

from softneuro_tvm import registry
from softneuro_tvm.cli.options import Json
from softneuro_tvm.cli.tables import console, print_json, table


def routines(json_output: Json = False) -> None:
    """List every routine: what it computes, what it needs, and where it comes from."""
    found = registry.routines()
    entries: list[dict[str, Any]] = [
        {
            "routine": name,
            "kind": item.kind,
            "summary": (inspect.getdoc(type(item)) or "").splitlines()[0],
            "needs": [requirement.text for requirement in item.requirements],
            "source": item.source,
        }
        for name, item in found.items()
    ]
    failures = [str(error) for error in registry.import_errors()]
    if json_output:
        print_json({"routines": entries, "errors": failures})
        return
    rows = [[e["routine"], e["summary"], "; ".join(e["needs"]), e["source"]] for e in entries]
    columns = [("routine", "left"), ("what", "left"), ("needs", "left"), ("source", "left")]
    console.print(table(f"{len(entries)} routines", columns, rows))
    for failure in failures:
        console.print(f"[red]{failure}[/red]")
