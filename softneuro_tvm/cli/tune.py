"""`softneuro-tvm tune`: import, enumerate, profile, select, build, verify."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from softneuro_tvm.cli.options import InputShapes, Json, Model, Store, Threads, parse_input_shapes
from softneuro_tvm.cli.plan_tables import comparison_lines, memory_line, plan_table
from softneuro_tvm.cli.tables import console, milliseconds, print_json
from softneuro_tvm.files import check_writable
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.routine import Candidate

_FAILURES = 5
"""Rejected candidates that are named on the screen; `explain --layer` and `--json` name all."""
_REPORT_S = 10.0
"""Seconds between lines of progress where there is no terminal."""


class ProgressBar:
    """Shows the profiler's progress: a bar on a terminal, a line now and then elsewhere.

    Args:
        silent: Shows nothing.
    """

    def __init__(self, silent: bool) -> None:
        self.bar = Progress(
            TextColumn("measuring"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=silent or not console.is_terminal,
        )
        self.silent = silent or console.is_terminal
        self.reported = time.monotonic()
        self.task = self.bar.add_task("")
        self.failures: list[str] = []
        self.counts = {"total": 0, "known": 0, "measured": 0, "failed": 0}

    def started(self, total: int, known: int) -> None:
        """Starts the bar; what is in the store counts as done."""
        self.counts |= {"total": total, "known": known}
        self.bar.update(self.task, total=total, completed=known)
        self.bar.start()

    def compiled(self, candidate: Candidate) -> None:
        """Names what was compiled."""
        self.bar.update(self.task, description=f"compiling {candidate.workload.kind} {candidate.descriptor}"[:70])

    def measured(self, candidate: Candidate, measurement: Measurement) -> None:
        """Advances the bar."""
        self.counts["measured"] += 1
        if not measurement.ok:
            self.counts["failed"] += 1
            self.failures.append(f"{candidate.workload.kind} {candidate.descriptor}: {measurement.message}")
        text = f"{candidate.workload.kind} {candidate.descriptor} {milliseconds(measurement.median_s)} ms"
        self.bar.update(self.task, advance=1, description=text[:70])
        if not self.silent and time.monotonic() - self.reported > _REPORT_S:
            self.reported = time.monotonic()
            done = self.counts["known"] + self.counts["measured"]
            console.print(f"measured {done} of {self.counts['total']} candidates")

    def finished(self) -> None:
        """Removes the bar."""
        self.bar.stop()


def tune(
    model: Model,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Shared library to write; MODEL.so by default.")
    ] = None,
    input_shapes: InputShapes = None,
    threads: Threads = None,
    tuning_records: Store = None,
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="Where to write the plan (JSON); beside the library by default.")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Compare the built module with onnxruntime.")] = True,
    json_output: Json = False,
) -> None:
    """Find the fastest routine for every layer of MODEL on this machine, and build a deployable library.

    Routines are measured one at a time; results are kept, so that a second run takes seconds. Leave the machine alone
    meanwhile. Ctrl-C keeps what was measured; the same command resumes.
    """
    import softneuro_tvm as sn
    from softneuro_tvm.verification import sample_inputs
    from softneuro_tvm.verification import verify as check

    begin = time.monotonic()
    loaded = sn.load(model, parse_input_shapes(input_shapes))
    device = sn.host_device(threads)
    target = output or Path(f"{Path(model.removeprefix('zoo:')).stem}.so")
    check_writable(target)
    if not json_output:
        layers = f"[bold]{loaded.graph.name}[/bold]: {len(loaded.graph.layers)} layers"
        console.print(f"{layers}, tuning for {device.description}")
    bar = ProgressBar(silent=json_output)
    try:
        plan = sn.tune(loaded, device=device, store=tuning_records, observer=bar)
    finally:
        bar.finished()
    tuned_s = time.monotonic() - begin
    plan.save(plan_file or target.with_suffix(".plan.json"))
    module = sn.build(loaded, plan)
    agreement = check(loaded, plan, module) if verify else None
    module.export(target)
    samples = module.time(module.tensors([], sample_inputs(loaded.graph)), repeat=15)
    measured_s = sorted(samples)[len(samples) // 2]
    if json_output:
        print_json(
            {
                "output": str(target),
                "measurements": bar.counts,
                "rejected": bar.failures,
                "tuning_s": tuned_s,
                "predicted_s": plan.predicted_s,
                "measured_s": measured_s,
                "error": agreement.error if agreement else None,
                "reference": agreement.reference if agreement else None,
                "comparison": dict(plan.comparison),
                "memory": module.manifest["memory"],
            }
        )
        return
    console.print(plan_table(plan))
    for line in comparison_lines(plan, measured_s):
        console.print(line)
    console.print(memory_line(module.manifest["memory"]))
    if agreement:
        allowed = f"(allowed {agreement.tolerance:.1e})"
        console.print(f"agrees with {agreement.reference}: relative error {agreement.error:.1e} {allowed}")
    for failure in bar.failures[:_FAILURES]:
        console.print(f"[yellow]rejected[/yellow] {failure.splitlines()[0]}", highlight=False)
    counts = bar.counts
    console.print(
        f"{counts['measured']} candidates measured ({counts['failed']} failed), {counts['known']} known from before; "
        f"{tuned_s:.0f} s for tuning, {time.monotonic() - begin:.0f} s in all; wrote [bold]{target}[/bold]"
    )
