"""Predicted times of networks as DPRS and as simpler strategies select them, from what a profile store knows.

Nothing is measured: a network for which the store lacks a measurement of some layer is listed as not tuned. Ratios are
predicted time over that of DPRS; the best single layout is the best of all layouts; `no adapters` is a bound.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import softneuro_tvm as sn
from softneuro_tvm import zoo
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.errors import SoftNeuroError
from softneuro_tvm.profiler import residency_of
from softneuro_tvm.profiler.keys import measurement_key
from softneuro_tvm.profiler.store import ProfileStore
from softneuro_tvm.selection.comparison import compare_strategies
from softneuro_tvm.selection.measured import MeasuredNetwork
from softneuro_tvm.selection.resources import Limits
from softneuro_tvm.selection.select import choose
from softneuro_tvm.selection.solver import marginals

STRATEGIES = ("greedy", "single layout", "beam", "no_covers", "no_adapters")

console = Console(width=None if sys.stdout.isatty() else 160)


def compare(model: str, threads: int, store: ProfileStore) -> dict[str, Any]:
    """Selects for one network by every strategy."""
    graph, device = sn.load(model).graph, sn.host_device(threads)
    candidates = enumerate_candidates(graph, device)
    residency = residency_of(graph.weight_bytes, device)
    keys = {candidate: measurement_key(candidate, device, residency) for candidate in candidates.all()}
    known = store.get_many(keys.values())
    profile = {candidate: known[key] for candidate, key in keys.items() if key in known}
    start = time.perf_counter()
    network = MeasuredNetwork(graph, candidates, profile, device)
    choice = choose(network, Limits())
    selected = time.perf_counter()
    marginals(network.problem.pairwise)
    explained = time.perf_counter()
    found = compare_strategies(network.problem)
    single = [seconds for name, seconds in found.items() if name.startswith("single_layout:")]
    return {
        "model": model,
        "threads": threads,
        "layers": len(graph.layers),
        "candidates": len(keys),
        "measured": len(profile),
        "predicted_s": choice.cost_s,
        "proved": choice.lower_s == choice.cost_s,
        "method": choice.method,
        "selection_s": selected - start,
        "marginals_s": explained - selected,
        "resources": dict(choice.resources),
        "strategies": found | ({"single layout": min(single)} if single else {}),
    }


def show(results: list[dict[str, Any]]) -> None:
    """One row for each network and thread count."""
    shown = Table(title="predicted times; a strategy's ratio is its time / that of DPRS", title_justify="left")
    for heading in ("model", "threads", "layers", "DPRS ms", *STRATEGIES, "selected in ms", "proved", "method"):
        shown.add_column(heading.replace("_", " "), justify="left" if heading in ("model", "method") else "right")
    for result in results:
        name = [result["model"], str(result["threads"])]
        if "failure" in result:
            shown.add_row(*name, f"[red]{result['failure']}[/red]")
            continue
        ratios = {key: seconds / result["predicted_s"] for key, seconds in result["strategies"].items()}
        shown.add_row(
            *name,
            str(result["layers"]),
            f"{result['predicted_s'] * 1e3:.3f}",
            *(f"{ratios[key]:.3f}" if key in ratios else "-" for key in STRATEGIES),
            f"{result['selection_s'] * 1e3:.0f}",
            "yes" if result["proved"] else "no",
            result["method"],
        )
    console.print(shown)


def main() -> None:
    """Parses options and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="ONNX files or zoo:NAME; the whole zoo by default")
    parser.add_argument("--threads", default="1", help="thread counts (default %(default)s)")
    parser.add_argument("--tuning-records", help="profile store; the user's by default")
    parser.add_argument("--json", help="file to write results to")
    options = parser.parse_args()
    models = options.models or [f"zoo:{name}" for name in (*zoo.names(), *zoo.extra_names())]
    results: list[dict[str, Any]] = []
    with ProfileStore(options.tuning_records) as store:
        for model in models:
            for threads in map(int, options.threads.split(",")):
                try:
                    results.append(compare(model, threads, store))
                except SoftNeuroError as error:
                    failure = "not tuned" if "every candidate failed ()" in str(error) else str(error).splitlines()[0]
                    results.append({"model": model, "threads": threads, "failure": failure})
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    main()
