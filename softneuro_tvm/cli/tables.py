"""Tables and numbers as people read them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(width=None if sys.stdout.isatty() else 160)
"""Standard output for people."""


def milliseconds(seconds: float) -> str:
    """A time in ms with three or four significant digits."""
    ms = seconds * 1e3
    if not math.isfinite(ms):
        return "-"
    digits = 1 if ms >= 100 else 2 if ms >= 10 else 3 if ms >= 0.1 else 4
    return f"{ms:.{digits}f}"


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


def print_json(data: Mapping[str, Any] | Sequence[Any]) -> None:
    """Writes JSON to standard output."""
    sys.stdout.write(json.dumps(data, indent=1, sort_keys=True, default=str) + "\n")
