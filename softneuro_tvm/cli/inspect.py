"""`softneuro-tvm inspect`: a model as layers, and what could compute each of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from softneuro_tvm.cli.options import InputShapes, Json, Model, Threads, parse_input_shapes
from softneuro_tvm.cli.tables import console, print_json, table


def inspect(
    model: Model,
    input_shapes: InputShapes = None,
    threads: Threads = None,
    candidates: Annotated[bool, typer.Option("--candidates", help="List candidates and refusals too.")] = False,
    json_output: Json = False,
) -> None:
    """Show a model's layers as they are tuned: fused operators, shapes, work, and the number of candidates."""
    if model == "zoo:":
        from softneuro_tvm import zoo

        console.print(" ".join(f"zoo:{name}" for name in (*zoo.names(), *zoo.extra_names())), highlight=False)
        return
    import softneuro_tvm as sn
    from softneuro_tvm.candidates import enumerate_candidates
    from softneuro_tvm.registry import layer_kind

    graph = sn.load(model, parse_input_shapes(input_shapes)).graph
    found = enumerate_candidates(graph, sn.host_device(threads))
    layers: list[dict[str, Any]] = []
    for layer in graph.layers:
        workload = graph.workloads[layer.name]
        layers.append(
            {
                "layer": layer.name,
                "kind": layer.kind,
                "inputs": [str(t) for t in workload.inputs],
                "outputs": [str(t) for t in workload.outputs],
                "gflop": layer_kind(layer.kind).flops(workload) / 1e9,
                "candidates": [f"{c.routine.name} {c.descriptor}" for c in found.by_workload[workload]],
                "refused": [f"{name} {reason}" for name, reason in found.refusals[workload]],
            }
        )
    if json_output:
        print_json({"model": graph.name, "weight_bytes": graph.weight_bytes, "layers": layers})
        return
    rows = [
        [
            str(entry["layer"]),
            str(entry["kind"]),
            " ".join(entry["inputs"]),
            " ".join(entry["outputs"]),
            f"{entry['gflop']:.3f}",
            str(len(entry["candidates"])),
        ]
        for entry in layers
    ]
    columns = [("layer", "left"), ("kind", "left"), ("reads", "left"), ("writes", "left")]
    console.print(table(graph.name, [*columns, ("GFLOP", "right"), ("candidates", "right")], rows))
    total = sum(float(entry["gflop"]) for entry in layers)
    console.print(
        f"{len(layers)} layers, {total:.2f} GFLOP, {graph.weight_bytes / 1e6:.1f} MB of weights, "
        f"{len(found.all())} distinct candidates with adapters"
    )
    if candidates:
        for entry in layers:
            console.print(f"[bold]{entry['layer']}[/bold]")
            for line in entry["candidates"]:
                console.print(f"  {line}", highlight=False)
            for line in entry["refused"]:
                console.print(f"  [dim]not {line}[/dim]", highlight=False)
