"""`softneuro-tvm report`: a plan as a page, a trace and an annotated model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from softneuro_tvm.cli.options import Json
from softneuro_tvm.cli.tables import console, print_json
from softneuro_tvm.errors import ModelError
from softneuro_tvm.files import check_writable
from softneuro_tvm.plan import Plan

if TYPE_CHECKING:
    import onnx


def report(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="Plan (JSON) or built module (.so).")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Page to write; beside PLAN, ending in .html, by default.")
    ] = None,
    trace_file: Annotated[
        Path | None, typer.Option("--trace", help="Also write the predicted timeline for ui.perfetto.dev (JSON).")
    ] = None,
    annotated: Annotated[
        Path | None, typer.Option("--onnx", help="Also write the model with the plan in its nodes, for Netron.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="ONNX file or zoo:NAME for --onnx; a built module knows where it came from."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Write a page that shows what was chosen, why, and what it costs; one file, readable without a network.

    The page holds the predicted and the measured time beside those of simpler strategies, a timeline, the network
    with the routine, layout and time of each layer, every candidate of every layer with its spread, and the machine.
    Any browser shows it: `softneuro-tvm report resnet18.plan.json -o resnet18.html`.

    A built module adds its inputs, outputs, versions and memory. To see the plan where the model is:
    `softneuro-tvm report resnet18.plan.json --onnx seen.onnx --model resnet18.onnx`, then open seen.onnx in Netron
    and click a node.
    """
    from softneuro_tvm.report import write_annotated, write_report, write_trace

    plan, manifest = _load(plan_file)
    page = output or plan_file.with_name(f"{plan_file.stem.removesuffix('.plan')}.html")
    written = [path for path in (page, trace_file, annotated) if path is not None]
    for path in written:
        check_writable(path)
    source = _model(model or str(manifest.get("source", ""))) if annotated else None
    write_report(plan, page, manifest)
    if trace_file:
        write_trace(plan, trace_file)
    if annotated:
        write_annotated(source, plan, annotated)
    if json_output:
        print_json({"written": {str(path): path.stat().st_size for path in written}})
        return
    for path in written:
        console.print(f"wrote [bold]{escape(str(path))}[/bold] ({path.stat().st_size / 1e6:.2f} MB)", highlight=False)


def _load(path: Path) -> tuple[Plan, Mapping[str, Any]]:
    """The plan, and the manifest of a built module; a plan file has none."""
    if path.suffix == ".so":
        from softneuro_tvm.runtime import load_module

        module = load_module(path)
        return Plan.from_json(json.dumps(module.plan)), module.manifest
    return Plan.load(path), {}


def _model(source: str) -> onnx.ModelProto:
    """The model to annotate.

    Raises:
        ModelError: none was given, or it cannot be read.
    """
    from softneuro_tvm import zoo
    from softneuro_tvm.importer.onnx_file import load_onnx

    if not source:
        raise ModelError("--onnx needs the model that the plan was made for; give it with --model MODEL")
    return zoo.resolve(source) if source.startswith("zoo:") else load_onnx(Path(source))
