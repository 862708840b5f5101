"""Tables and numbers as people read them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(width=None if sys.stdout.isatty() else 160)
"""Standard output for people."""


def milliseconds(seconds: float) -> str:
    """Three significant places of a time, in ms."""
    ms = seconds * 1e3
    return f"{ms:.3f}" if ms < 10 else f"{ms:.2f}" if ms < 100 else f"{ms:.1f}"


def table(title: str, columns: Iterable[tuple[str, str]], rows: Iterable[Iterable[str]]) -> Table:
    """A table.

    Args:
        title: Above it.
        columns: Pairs of heading and justification (``left`` or ``right``).
        rows: Cells.
    """
    made = Table(title=title, title_justify="left", header_style="bold")
    for heading, justify in columns:
        made.add_column(heading, justify="right" if justify == "right" else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def print_json(data: Mapping[str, Any]) -> None:
    """Writes JSON to standard output."""
    sys.stdout.write(json.dumps(data, indent=1, sort_keys=True, default=str) + "\n")
