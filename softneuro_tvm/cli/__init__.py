"""The command line: `softneuro-tvm tune | run | bench | inspect | routines | explain | plan | report | db | ...`."""

from __future__ import annotations

import os

# numpy reads it when it is imported; its threads would spin between the short products of packing
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import atexit
import gc
import logging
import sys

import typer

from softneuro_tvm.cli import (
    bench,
    db,
    devices,
    doctor,
    explain,
    inspect,
    plan,
    report,
    routines,
    rpc,
    rpc_server,
    run,
    tune,
)
from softneuro_tvm.errors import SoftNeuroError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Tune trained networks for the hardware at hand. Typical use: "
    "[bold]softneuro-tvm tune resnet18.onnx -o resnet18.so[/bold], then "
    "[bold]softneuro-tvm run resnet18.so --print-time[/bold]. Models may also be [bold]zoo:NAME[/bold].",
)
app.command("tune")(tune.tune)
app.command("run")(run.run)
app.command("bench")(bench.bench)
app.command("inspect")(inspect.inspect)
app.command("routines")(routines.routines)
app.command("explain")(explain.explain)
app.add_typer(plan.app, name="plan")
app.command("report")(report.report)
app.add_typer(db.app, name="db")
app.command("rpc-server", epilog=rpc_server.EPILOG)(rpc_server.rpc_server)
app.add_typer(rpc.app, name="rpc")
app.command("devices")(devices.devices)
app.command("doctor")(doctor.doctor)

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it; typer ends with it."""


def main() -> None:
    """Runs the command line; an expected error prints one message and exits with 1."""
    atexit.register(gc.freeze)  # the interpreter would look for garbage among all of TVM's objects before it ends
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        app(standalone_mode=True)
    except SoftNeuroError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            sys.stderr.write("\ninterrupted; measurements so far are kept, the same command resumes from them\n")
        raise
