"""`softneuro-tvm bench`: a built module, or a model, against other engines."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from softneuro_tvm.cli.options import InputShapes, Json, Store, Threads, parse_input_shapes
from softneuro_tvm.cli.tables import console, milliseconds, print_json, table
from softneuro_tvm.errors import ModelError
from softneuro_tvm.lean_import import import_tvm


def bench(
    subject: Annotated[str, typer.Argument(metavar="MODEL|LIBRARY", help="Model to tune first, or a built .so.")],
    against: Annotated[
        str, typer.Option("--against", help="Engines: untuned, onnxruntime, openvino, mnn, ncnn.")
    ] = "untuned,onnxruntime",
    model: Annotated[str | None, typer.Option("--model", help="The model a .so was built from.")] = None,
    input_shapes: InputShapes = None,
    threads: Threads = None,
    tuning_records: Store = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Turns that each engine takes.")] = 9,
    json_output: Json = False,
) -> None:
    """Time engines side by side: each in its own process, taking turns while the others are stopped."""
    import_tvm()
    import softneuro_tvm as sn
    from softneuro_tvm.benchmark import compare
    from softneuro_tvm.reference import sample_inputs

    with tempfile.TemporaryDirectory(prefix="softneuro_tvm-") as folder:
        if subject.endswith(".so"):
            manifest = sn.load_module(subject).manifest
            threads = int(manifest["device"]["threads"])
            library, source = subject, model or _remembered(manifest)
            loaded = sn.load(source, parse_input_shapes(input_shapes))
            if loaded.graph.digest != manifest["graph"]:
                raise ModelError(f"{subject!r} was not built from {source!r} as it is now; build it again")
        else:
            source = subject
            loaded = sn.load(source, parse_input_shapes(input_shapes))
            device = sn.host_device(threads)
            threads = device.threads
            library = str(Path(folder) / "module.so")
            sn.build(loaded, sn.tune(loaded, device=device, store=tuning_records)).export(library)
        engines = [("softneuro_tvm", library), *((name, source) for name in against.split(",") if name)]
        results = compare(
            engines,
            sample_inputs(loaded.graph),
            threads=threads,
            rounds=rounds,
            progress=lambda text: None if json_output else console.print(f"[dim]{text}[/dim]"),
        )
    ours = results[0].median_s
    if json_output:
        rows = [vars(r) | {"median_s": r.median_s, "min_s": r.min_s, "ratio": r.median_s / ours} for r in results]
        print_json({"model": source, "threads": threads, "engines": rows})
        return
    cells = [
        [
            r.engine,
            milliseconds(r.median_s),
            milliseconds(r.min_s),
            f"{r.median_s / ours:.2f}",
            "-" if r.error is None else f"{r.error:.1e}",
            str(len(r.samples_s)) if not r.message else r.message.splitlines()[0][:80],
        ]
        for r in results
    ]
    columns = [("engine", "left"), ("median ms", "right"), ("min ms", "right"), ("times ours", "right")]
    console.print(
        table(f"{source}, {threads} thread(s)", [*columns, ("rel. error", "right"), ("runs", "right")], cells)
    )


def _remembered(manifest: Mapping[str, Any]) -> str:
    """The model a library was built from."""
    source = str(manifest["source"])
    if source.startswith("zoo:") or (source and Path(source).is_file()):
        return source
    gone = f"its model {source!r} is gone" if source else "it does not say from which model it was built"
    raise ModelError(f"{gone}; name the model with --model MODEL.onnx")
