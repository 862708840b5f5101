"""Tunes a model with TVM's MetaSchedule and with softneuro_tvm on this machine, and times both side by side.

MetaSchedule gets the model as TVM's default pipeline lowers and fuses it, and searches as it does by default for this
processor: its rules (those for AVX-512 VNNI where there is such a unit), mutators and postprocessors, evolutionary
search, XGBoost, gradient task scheduler, as many trials as fit the time, each measured with its own settings, one at
a time, with the threads asked for. Weights are laid out as its schedules want them, and this is folded into constants.
Its clock starts after all imports, and stands still while the network is built in the end.

What differs from `tune_relax` as it comes, and why:
- builder and runner fork a child for each candidate instead of starting interpreters, which would import TVM's tensor
  intrinsics anew for each batch (half a minute each) and run into the builder's time limit; 30 s limits as there;
- the loop ends at a deadline instead of a number of trials; what was measured by then is used;
- tasks come in order of their work, and batches (64 candidates, population 512) are smaller where the time would not
  suffice to visit each task three times: otherwise most tasks would stay untuned;
- weights are marked as free to be laid out anew (as `static_shape_tuning_pipeline(cpu_weight_prepack=True)` does).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from platformdirs import user_cache_dir
from rich.console import Console

import softneuro_tvm as sn
from softneuro_tvm.benchmark import EngineResult, compare
from softneuro_tvm.cli.options import parse_duration
from softneuro_tvm.cli.tables import milliseconds, print_json, table
from softneuro_tvm.errors import ProfileError, SoftNeuroError
from softneuro_tvm.files import write_atomically
from softneuro_tvm.profiler import SilentObserver
from softneuro_tvm.reference import sample_inputs

LARGEST_ERROR = 1e-3
"""max|y - reference| / max|reference| of float32 networks; reordered sums stay far below."""

console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)


class KnownObserver(SilentObserver):
    """Notes how many measurements the store held already."""

    known = 0

    def started(self, total: int, known: int) -> None:
        """Called by the tuner."""
        self.known = known


def tune_ours(model: Any, threads: int, store: str | None, folder: Path) -> dict[str, Any]:
    """Tunes and builds with softneuro_tvm; an earlier result in the work folder is used again."""
    library, about = folder / "softneuro_tvm.so", folder / "softneuro_tvm.json"
    if about.exists():
        return dict(json.loads(about.read_text()))
    observer, begin = KnownObserver(), time.monotonic()
    plan = sn.tune(model, device=sn.host_device(threads), store=store, observer=observer)
    found = {"seconds": time.monotonic() - begin, "known": observer.known, "predicted_s": plan.predicted_s}
    sn.build(model, plan).export(library)
    write_atomically(about, json.dumps(found).encode())
    return found


def tune_theirs(options: argparse.Namespace, budget_s: float, folder: Path) -> dict[str, Any]:
    """Tunes and builds with MetaSchedule in a process of its own."""
    command = [sys.executable, "-m", "softneuro_tvm.benchmark.metaschedule", options.model]
    command += ["--threads", str(options.threads), "--seconds", str(budget_s), "--folder", str(folder)]
    for name in ("batch", "population"):
        if getattr(options, name) is not None:
            command += [f"--{name}", str(getattr(options, name))]
    log = folder / "metaschedule.log"
    with log.open("w") as stream:
        environment = os.environ | {"TVM_NUM_THREADS": str(options.threads)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True, env=environment)
        assert process.stdout is not None
        for line in process.stdout:
            console.print(f"[dim]MetaSchedule: {line.rstrip()}[/dim]", highlight=False)
        if process.wait():
            last = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise ProfileError(f"MetaSchedule ended with code {process.returncode}: {last}; all it said is in {log}")
    return dict(json.loads((folder / "metaschedule.json").read_text()))


def work_folder(options: argparse.Namespace) -> Path:
    """The folder for results, made if need be.

    Raises:
        ProfileError: it holds an earlier comparison, and `--resume` was not given.
    """
    name = f"{Path(options.model.removeprefix('zoo:')).stem}-{options.threads}"
    folder = Path(options.work_dir or Path(user_cache_dir("softneuro_tvm")) / "metaschedule" / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not options.resume and any(folder.iterdir()):
        raise ProfileError(f"{str(folder)!r} is not empty; --resume goes on there, --work-dir names another folder")
    return folder


def budget_of(options: argparse.Namespace, ours: dict[str, Any]) -> float:
    """Seconds for MetaSchedule.

    Raises:
        OptionError: malformed time.
        ProfileError: a factor of a tuning time that says nothing.
    """
    if options.factor is None:
        return parse_duration(options.time) or 0.0
    if ours["known"]:
        raise ProfileError(
            f"{ours['known']} measurements were known before, so tuning took only {ours['seconds']:.1f} s; "
            "for --factor tune from nothing (--tuning-records NEWFILE and another --work-dir), or give a --time"
        )
    return float(options.factor * ours["seconds"])


def show(found: dict[str, Any]) -> None:
    """Prints the table."""
    ours, theirs, rows = found["softneuro_tvm"], found["metaschedule"], found["engines"]
    seconds = {"softneuro_tvm": f"{ours['seconds']:.1f}", "metaschedule": f"{theirs['seconds']:.1f}"}
    cells = [
        [
            row["engine"],
            seconds.get(row["engine"], "-"),
            milliseconds(row["median_s"]),
            f"{row['median_s'] / rows[0]['median_s']:.2f}",
            row["message"].splitlines()[0][:60] if row["message"] else f"{row['error']:.1e}",
        ]
        for row in rows
    ]
    columns = [("", "left"), ("tuning s", "right"), ("median ms", "right"), ("times ours", "right")]
    out = Console(width=None if sys.stdout.isatty() else 120)
    title = f"{found['model']}, {found['threads']} thread(s)"
    out.print(table(title, [*columns, ("rel. error", "right")], cells))
    out.print(
        f"MetaSchedule: {theirs['tuned_tasks']} of {theirs['tasks']} tasks tuned, {theirs['measured']} candidates"
    )
    for message, count in theirs["failures"].items():
        out.print(f"  {count} failed: {message}", highlight=False)
    if ours["known"]:
        out.print(
            f"softneuro_tvm: {ours['known']} measurements were known before; its seconds are not those from nothing"
        )


def run(options: argparse.Namespace) -> int:
    """Tunes, builds, times, prints; returns the exit status."""
    missing = [name for name in ("xgboost", "psutil") if importlib.util.find_spec(name) is None]
    if missing:
        raise ProfileError(f"MetaSchedule needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    folder = work_folder(options)
    model = sn.load(options.model)
    console.print(f"[dim]tuning with softneuro_tvm; results go to {folder}[/dim]")
    ours = tune_ours(model, options.threads, options.tuning_records, folder)
    budget_s = budget_of(options, ours)
    theirs = tune_theirs(options, budget_s, folder)
    sources = [("softneuro_tvm", str(folder / "softneuro_tvm.so")), ("metaschedule", str(folder / "metaschedule.so"))]
    sources += [(engine, options.model) for engine in ("untuned", "onnxruntime")]
    results: list[EngineResult] = compare(
        sources,
        sample_inputs(model.graph),
        threads=options.threads,
        rounds=options.rounds,
        progress=lambda text: console.print(f"[dim]{text}[/dim]"),
    )
    found = {
        "model": options.model,
        "threads": options.threads,
        "softneuro_tvm": ours,
        "metaschedule": theirs,
        "engines": [vars(result) | {"median_s": result.median_s, "min_s": result.min_s} for result in results],
    }
    write_atomically(folder / "comparison.json", (json.dumps(found, indent=1) + "\n").encode())
    if options.json:
        print_json(found)
    else:
        show(found)
    wrong = [r.engine for r in results if r.message or not (r.error or 0.0) <= LARGEST_ERROR]
    if wrong:
        console.print(f"[red]failed, or differs from onnxruntime: {', '.join(wrong)}[/red]")
    return 1 if wrong else 0


def main() -> None:
    """Parses options and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="ONNX file or zoo:NAME")
    parser.add_argument("--threads", type=int, default=1, help="for every engine (default %(default)s)")
    time_options = parser.add_mutually_exclusive_group()
    time_options.add_argument(
        "--time", default="20m", help="time for MetaSchedule, e.g. 90s, 20m (default %(default)s)"
    )
    time_options.add_argument("--factor", type=float, help="time for MetaSchedule as a multiple of our tuning time")
    parser.add_argument("--work-dir", help="for databases, libraries, results; the user's cache folder by default")
    parser.add_argument("--resume", action="store_true", help="go on in a work folder; its time counts")
    parser.add_argument("--tuning-records", help="our profile store; the user's by default")
    parser.add_argument("--batch", type=int, help="MetaSchedule's candidates a batch (64; fewer in a short time)")
    parser.add_argument("--population", type=int, help="MetaSchedule's population (512; fewer in a short time)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each engine (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print results as JSON, which comparison.json holds anyway")
    try:
        sys.exit(run(parser.parse_args()))
    except SoftNeuroError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
