"""Options that restrict which routines `tune` may use: what if this layer were computed like that?"""

from __future__ import annotations

from typing import Annotated

import typer

from softneuro_tvm.descriptor import GRAMMAR

_PARTS = GRAMMAR.replace("[/ALG", " [/ALG").replace("[@", " [@").replace("[", r"\[")
"""The grammar with places where a line may break, and with brackets that are no markup."""

Force = Annotated[
    list[str] | None,
    typer.Option(
        "--force",
        metavar="DESCRIPTOR",
        help="Compute these layers so, whatever it costs: cpu/winograd/m=4@2..9 (positions as `inspect` shows them), "
        "cpu:float32:nchw8c@conv1,conv2, cpu/direct@layer1* (pattern), cpu@a+b (layers computed at once). Layers must "
        f"be named. May be repeated: all hold together. A descriptor is {_PARTS} without spaces; what is left out is "
        "free.",
    ),
]
Forbid = Annotated[
    list[str] | None,
    typer.Option(
        "--forbid",
        metavar="DESCRIPTOR",
        help="Do not use these: cpu/winograd (nowhere), cpu:float32:nhwc, cpu/winograd/m=6@conv2_1, "
        "cpu@inverted_residual (a kind of layer). May be repeated.",
    ),
]
Routine = Annotated[
    list[str] | None,
    typer.Option(
        "--routine",
        metavar="DESCRIPTOR",
        help="Use this wherever it can be used, and anything elsewhere: cpu/winograd, cpu:float32:nchw, "
        "cpu/im2col@conv2d. Repeated, any of them will do. `explain` and `plan diff` show what it cost.",
    ),
]
