"""Options that several commands share, named as in tvmc where tvmc has them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from softneuro_tvm.errors import DynamicShapeError, OptionError

Model = Annotated[str, typer.Argument(help="ONNX file, or zoo:NAME (`softneuro-tvm inspect zoo:` lists the names).")]
InputShapes = Annotated[
    str | None,
    typer.Option("--input-shapes", help='Shapes of inputs that the model leaves open: "x:[1,3,224,224] y:[1,10]".'),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads to tune for and run with; all cores by default.")
]
TuneThreads = Annotated[
    str | None,
    typer.Option(
        "--threads",
        metavar="N|auto",
        help="Threads to tune for and run with; all cores by default. auto tunes for 1, 2, 4 ... and all cores, times "
        "the whole networks, and keeps the fastest.",
    ),
]
Store = Annotated[
    Path | None,
    typer.Option("--tuning-records", help="Profile store (SQLite); the user's cache folder by default."),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="TIME",
        help="Time for measuring, e.g. 30s, 5m, 1m30s. The best plan by then is built; a later run goes on from it.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on standard output.")]

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")
_SHAPE = re.compile(r"\s*([^\s:\[\],][^:\[\]]*):\s*\[([\d,\s]*)\]\s*,?")


def parse_threads(text: str | None) -> int | Literal["auto"] | None:
    """A number of threads, or ``auto``; None if there is no text.

    Raises:
        OptionError: the text is neither.
    """
    if text is None:
        return None
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise OptionError(f"--threads cannot be read from {text!r}; write a number from 1 on, or auto")
    return int(text)


def parse_duration(text: str | None) -> float | None:
    """Seconds of a text like ``30s``, ``5m`` or ``1h30m``; a number alone means seconds.

    Raises:
        OptionError: malformed text.
    """
    if text is None:
        return None
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise OptionError(f"--budget cannot be read from {text!r}; write it like 30s, 5m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def parse_input_shapes(text: str | None) -> dict[str, list[int]] | None:
    """Parses tvmc's notation ``name:[1,3,224,224] other:[1,10]``.

    Raises:
        DynamicShapeError: malformed text.
    """
    if text is None:
        return None
    shapes: dict[str, list[int]] = {}
    position = 0
    while position < len(text):
        match = _SHAPE.match(text, position)
        if match is None:
            raise DynamicShapeError(
                f'--input-shapes cannot be read from {text[position:]!r}; write it like "x:[1,3,224,224] y:[1,10]"'
            )
        shapes[match[1].strip()] = [int(n) for n in match[2].split(",") if n.strip()]
        position = match.end()
    return shapes
