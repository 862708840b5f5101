"""`softneuro-tvm doctor`: is this machine ready, and if not, what to do."""

from __future__ import annotations

import typer

from softneuro_tvm.cli.options import Json
from softneuro_tvm.cli.tables import console, print_json, table
from softneuro_tvm.doctor import examine


def doctor(json_output: Json = False) -> None:
    """Check versions, compiler, processor and profile store; say what to fix."""
    findings = examine()
    if json_output:
        print_json({"findings": [vars(finding) for finding in findings]})
    else:
        rows = [[f"{'ok' if f.ok else 'PROBLEM'}", f.subject, f.found, f.remedy] for f in findings]
        columns = [("", "left"), ("what", "left"), ("found", "left"), ("do", "left")]
        console.print(table("doctor", columns, rows))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
