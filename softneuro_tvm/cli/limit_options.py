"""Options that bound what a plan needs besides time."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import typer

from softneuro_tvm.errors import OptionError

MemoryLimit = Annotated[
    str | None,
    typer.Option(
        "--memory-limit",
        metavar="SIZE",
        help="The most that activations may need at once, e.g. 4MB or 512KiB. Limits are kept exactly, and make `tune` "
        "measure every candidate.",
    ),
]
WorkspaceLimit = Annotated[
    str | None, typer.Option("--workspace-limit", metavar="SIZE", help="The largest workspace of a kernel.")
]
WeightsLimit = Annotated[
    str | None, typer.Option("--weights-limit", metavar="SIZE", help="Bytes of all weights as they are packed.")
]
ErrorLimit = Annotated[
    float | None,
    typer.Option(
        "--error-limit",
        min=0.0,
        help="The sum of the routines' measured relative errors, e.g. 2e-5: large Winograd tiles are less exact.",
    ),
]
Precision = Annotated[
    Literal["float32", "mixed"],
    typer.Option(
        "--precision",
        help="mixed: compute in float16 where the device has the arithmetic and that is faster; inputs and outputs "
        "remain float32. Combine it with --error-limit, e.g. 1e-2.",
    ),
]
Pareto = Annotated[
    bool,
    typer.Option(
        "--pareto", help="Also find the plans that trade time for memory and for accuracy; measures every candidate."
    ),
]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B?")
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(option: str, text: str | None) -> float | None:
    """Bytes of a text like ``512KiB``, ``4MB`` or ``1000000``.

    Raises:
        OptionError: malformed text; names the option.
    """
    if text is None:
        return None
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise OptionError(f"{option} cannot be read from {text!r}; write it like 512KiB, 4MB or 1000000")
    number, unit, binary = match.groups()
    return float(number) * (1024.0 if binary else 1000.0) ** _POWERS[unit.upper()]
