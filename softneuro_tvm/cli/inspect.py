"""`softneuro-tvm inspect`: a model as layers, and what could compute each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from softneuro_tvm.cli.options import InputShapes, Json, Model, Threads, parse_input_shapes
from softneuro_tvm.cli.tables import console, print_json, table

if TYPE_CHECKING:
    from softneuro_tvm.candidates import Candidates
    from softneuro_tvm.graph import Graph, Layer


def inspect(
    model: Model,
    input_shapes: InputShapes = None,
    threads: Threads = None,
    candidates: Annotated[bool, typer.Option("--candidates", help="List candidates and refusals too.")] = False,
    json_output: Json = False,
) -> None:
    """Show a model's layers as they are tuned: fused operators, shapes, work, and the number of candidates.

    Layers are numbered as `tune --force cpu/direct@2..9` counts them. Below them stand the composites: layers that one
    routine can compute at once, and that a plan may take instead.
    """
    if model == "zoo:":
        from softneuro_tvm import zoo

        console.print(" ".join(f"zoo:{name}" for name in (*zoo.names(), *zoo.extra_names())), highlight=False)
        return
    import softneuro_tvm as sn
    from softneuro_tvm.candidates import enumerate_candidates

    graph = sn.load(model, parse_input_shapes(input_shapes)).graph
    found = enumerate_candidates(graph, sn.host_device(threads))
    layers = [{"position": i} | _entry(graph, found, layer) for i, layer in enumerate(graph.layers)]
    covers = [{"position": "-"} | _entry(graph, found, cover.layer) for cover in found.covers]
    if json_output:
        print_json({"model": graph.name, "weight_bytes": graph.weight_bytes, "layers": layers, "composites": covers})
        return
    rows = [
        [
            str(entry["position"]),
            escape(entry["layer"]),
            entry["kind"],
            " ".join(entry["inputs"]),
            " ".join(entry["outputs"]),
            f"{entry['gflop']:.3f}",
            str(len(entry["candidates"])),
        ]
        for entry in (*layers, *covers)
    ]
    columns = [("#", "right"), ("layer", "left"), ("kind", "left"), ("reads", "left"), ("writes", "left")]
    console.print(table(graph.name, [*columns, ("GFLOP", "right"), ("candidates", "right")], rows))
    total = sum(float(entry["gflop"]) for entry in layers)
    console.print(
        f"{len(layers)} layers, {total:.2f} GFLOP, {graph.weight_bytes / 1e6:.1f} MB of weights, "
        f"{len(found.all())} distinct candidates with adapters"
    )
    if candidates:
        for entry in (*layers, *covers):
            console.print(f"[bold]{escape(entry['layer'])}[/bold]")
            for line in entry["candidates"]:
                console.print(f"  {line}", highlight=False)
            for line in entry["refused"]:
                console.print(f"  [dim]not {line}[/dim]", highlight=False)


def _entry(graph: Graph, found: Candidates, layer: Layer) -> dict[str, Any]:
    """A layer or composite, its work, and what could compute it."""
    from softneuro_tvm.registry import layer_kind

    workload = graph.workload(layer)
    return {
        "layer": layer.name,
        "kind": layer.kind,
        "inputs": [str(t) for t in workload.inputs],
        "outputs": [str(t) for t in workload.outputs],
        "gflop": layer_kind(layer.kind).flops(workload) / 1e9,
        "candidates": [f"{c.routine.name} {c.descriptor}" for c in found.by_workload[workload]],
        "refused": [f"{name} {reason}" for name, reason in found.refusals[workload]],
    }
