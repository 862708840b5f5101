"""Tunes models and times them against other engines, side by side; prints one table, writes JSON, draws a plot.

Each engine runs in its own process; they take turns, and while one runs the others are stopped. Times are medians of
single runs over all rounds. The share of peak is a network's floating-point operations a second, of what the machine
reaches with multiply-adds on registers alone; Winograd's and Strassen's savings count as if they had been computed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import softneuro_tvm as sn
from softneuro_tvm import zoo
from softneuro_tvm.benchmark import EngineResult, compare
from softneuro_tvm.benchmark.peak import peak_flops
from softneuro_tvm.benchmark.plot import plot_ratios
from softneuro_tvm.errors import SoftNeuroError
from softneuro_tvm.reference import sample_inputs
from softneuro_tvm.registry import layer_kind

console = Console(width=None if sys.stdout.isatty() else 160)


def measure(model: str, engines: list[str], threads: int, rounds: int, store: str | None) -> dict[str, Any]:
    """Tunes a model and compares engines on it."""
    loaded = sn.load(model)
    plan = sn.tune(loaded, device=sn.host_device(threads), store=store)
    with tempfile.TemporaryDirectory(prefix="softneuro_tvm-") as folder:
        library = str(Path(folder) / "module.so")
        sn.build(loaded, plan).export(library)
        sources = [("softneuro_tvm", library), *((engine, model) for engine in engines)]
        found: list[EngineResult] = compare(sources, sample_inputs(loaded.graph), threads=threads, rounds=rounds)
    rows = [vars(result) | {"median_s": result.median_s, "min_s": result.min_s} for result in found]
    work = sum(layer_kind(layer.kind).flops(loaded.graph.workloads[layer.name]) for layer in loaded.graph.layers)
    return {"model": model, "threads": threads, "predicted_s": plan.predicted_s, "flop": work, "engines": rows}


def show(results: list[dict[str, Any]], engines: list[str], peaks: dict[int, float]) -> None:
    """One row for each model and thread count; ratios are times ours; peaks in FLOP/s by thread count."""
    shown = Table(title="medians in ms; ratios are (engine / ours), above 1 means ours is faster", title_justify="left")
    for heading in ("model", "threads", "ours", "predicted", "of peak"):
        shown.add_column(heading)
    for engine in engines:
        shown.add_column(engine, justify="right")
    shown.add_column("rel. error", justify="right")
    ratios: dict[str, list[float]] = {engine: [] for engine in (*engines, "best of them")}
    for result in results:
        if "failure" in result:
            shown.add_row(result["model"], str(result["threads"]), f"[red]{result['failure']}[/red]")
            continue
        ours = result["engines"][0]
        cells = []
        for row in result["engines"][1:]:
            ratio = row["median_s"] / ours["median_s"]
            if math.isfinite(ratio):
                ratios[row["engine"]].append(ratio)
            cells.append(f"{row['median_s'] * 1e3:.2f} ({ratio:.2f})" if not row["message"] else "failed")
        if len(engines) > 1 and (best := min(row["median_s"] for row in result["engines"][1:])) < math.inf:
            ratios["best of them"].append(best / ours["median_s"])
        predicted = f"{result['predicted_s'] * 1e3:.2f}"
        error = "-" if ours["error"] is None else f"{ours['error']:.1e}"
        share = f"{result['flop'] / ours['median_s'] / peaks[result['threads']]:.0%}"
        name = [result["model"], str(result["threads"]), f"{ours['median_s'] * 1e3:.2f}", predicted, share]
        shown.add_row(*name, *cells, error)
    console.print(shown)
    for engine, values in ratios.items():
        if values:
            mean = math.exp(sum(map(math.log, values)) / len(values))
            console.print(f"{engine}: geometric mean {mean:.2f}, least {min(values):.2f}")


def main() -> None:
    """Parses options and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="ONNX files or zoo:NAME")
    parser.add_argument("--all", action="store_true", help="the seed networks of the zoo")
    parser.add_argument("--extra", action="store_true", help="the zoo's further networks")
    parser.add_argument(
        "--against", default="onnxruntime", help="engines: untuned,onnxruntime,openvino,mnn,ncnn (default %(default)s)"
    )
    parser.add_argument("--threads", default="1,2", help="thread counts (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each engine (default %(default)s)")
    parser.add_argument("--tuning-records", help="profile store; the user's by default")
    parser.add_argument("--json", help="file to write results to")
    parser.add_argument("--plot", help="picture to draw: .png, .svg or .pdf")
    options = parser.parse_args()
    models = list(options.models)
    models += [f"zoo:{name}" for name in zoo.names()] if options.all else []
    models += [f"zoo:{name}" for name in zoo.extra_names()] if options.extra else []
    if not models:
        parser.error("name models, or --all")
    engines = [engine for engine in options.against.split(",") if engine]
    counts = [int(count) for count in options.threads.split(",")]
    peaks = {count: peak_flops(count) for count in counts}
    for count, peak in peaks.items():
        console.print(f"peak of {count} thread(s): {peak / 1e9:.0f} GFLOP/s")
    results: list[dict[str, Any]] = []
    for model in models:
        for threads in counts:
            console.print(f"[dim]{model}, {threads} thread(s)[/dim]")
            try:
                results.append(measure(model, engines, threads, options.rounds, options.tuning_records))
            except SoftNeuroError as error:
                results.append({"model": model, "threads": threads, "failure": str(error).splitlines()[0][:100]})
                console.print(f"[red]{error}[/red]")
            if options.json:
                Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    show(results, engines, peaks)
    if options.plot:
        plot_ratios(results, options.plot)


if __name__ == "__main__":
    main()
