"""Tunes models from nothing by exhaustive and by active measuring, and times what both build, side by side.

Each way begins with an empty profile store and an empty object cache. "again" is the same command once more, from what
was measured. The networks are timed in processes of their own, in turns, in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import softneuro_tvm as sn
from softneuro_tvm.benchmark import compare
from softneuro_tvm.cli.options import parse_duration
from softneuro_tvm.cli.tables import milliseconds, print_json, table
from softneuro_tvm.errors import SoftNeuroError
from softneuro_tvm.files import write_atomically
from softneuro_tvm.object_cache import ENVIRONMENT_VARIABLE
from softneuro_tvm.pipeline import TuneOptions
from softneuro_tvm.reference import sample_inputs

console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)


@dataclass(frozen=True)
class Way:
    """One way to tune.

    Args:
        name: For the table.
        options: For `softneuro_tvm.tune`.
    """

    name: str
    options: TuneOptions


def tune(model: Any, threads: int, way: Way, folder: Path) -> dict[str, Any]:
    """Tunes from nothing and again, and builds."""
    os.environ[ENVIRONMENT_VARIABLE] = str(folder / f"{way.name}-objects")
    seconds = []
    for _ in range(2):
        begin = time.monotonic()
        store = folder / f"{way.name}.sqlite"
        plan = sn.tune(model, device=sn.host_device(threads), store=store, options=way.options)
        seconds.append(time.monotonic() - begin)
    library = folder / f"{way.name}.so"
    sn.build(model, plan).export(library)
    found = {"way": way.name, "seconds": seconds[0], "again_s": seconds[1], "predicted_s": plan.predicted_s}
    return found | {"library": str(library), **plan.tuning}


def compare_ways(source: str, threads: int, ways: list[Way], rounds: int) -> list[dict[str, Any]]:
    """Tunes a model in each way, and times the results in turns."""
    model = sn.load(source)
    with tempfile.TemporaryDirectory(prefix="softneuro_tvm-") as folder:
        found = []
        for way in ways:
            console.print(f"[dim]{source}, {threads} thread(s): {way.name}[/dim]")
            found.append(tune(model, threads, way, Path(folder)))
        sources = [("softneuro_tvm", row["library"]) for row in found]
        results = compare(sources, sample_inputs(model.graph), threads=threads, rounds=rounds, progress=lambda _: None)
    for row, result in zip(found, results, strict=True):
        row |= {"model": source, "threads": threads, "median_s": result.median_s, "min_s": result.min_s}
        row["times"] = result.times(results[0])
        del row["library"]
    return found


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the table."""
    cells = []
    for row in rows:
        cells.append(
            [
                f"{row['model']} {row['threads']}",
                row["way"],
                f"{row['seconds']:.1f}",
                f"{row['again_s']:.1f}",
                f"{row['measured']} of {row['candidates']}",
                milliseconds(row["predicted_s"]),
                milliseconds(row["median_s"]),
                milliseconds(row["min_s"]),
                f"{row['times']:.3f}",
            ]
        )
    columns = [("model, threads", "left"), ("", "left"), ("tuning s", "right"), ("again s", "right")]
    columns += [("measured", "right"), ("predicted ms", "right"), ("median ms", "right"), ("fastest", "right")]
    columns += [("ratio", "right")]
    Console(width=None if sys.stdout.isatty() else 120).print(table("active against exhaustive", columns, cells))


def main() -> None:
    """Parses options and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="*", default=["zoo:resnet50", "zoo:mobilenet_v2"], help="ONNX files or zoo:NAME"
    )
    parser.add_argument("--threads", default="2", help="thread counts (default %(default)s)")
    parser.add_argument("--budget", action="append", default=[], help="also with this budget, e.g. 20s; repeatable")
    parser.add_argument("--rounds", type=int, default=40, help="turns of each network (default %(default)s)")
    parser.add_argument("--json", help="file to write results to; - prints them instead of the table")
    options = parser.parse_args()
    ways = [Way("exhaustive", TuneOptions(exhaustive=True)), Way("active", TuneOptions())]
    rows: list[dict[str, Any]] = []
    try:
        ways += [Way(f"budget {text}", TuneOptions(budget_s=parse_duration(text))) for text in options.budget]
        for threads in map(int, options.threads.split(",")):
            for source in options.models:
                rows += compare_ways(source, threads, ways, options.rounds)
    except SoftNeuroError as error:
        sys.exit(f"error: {error}")
    if options.json == "-":
        print_json(rows)
        return
    if options.json:
        write_atomically(Path(options.json), (json.dumps(rows, indent=1) + "\n").encode())
    show(rows)


if __name__ == "__main__":
    main()
