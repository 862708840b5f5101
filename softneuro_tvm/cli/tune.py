"""`softneuro-tvm tune`: import, enumerate, profile, select, build, verify."""

from __future__ import annotations

import math
import shlex
import statistics
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softneuro_tvm.cli.board_options import (
    CrossCompiler,
    DaskScheduler,
    RpcKey,
    RpcServer,
    RpcSessionTimeout,
    RpcTracker,
    Target,
    chosen_board,
    use_cross_compiler,
)
from softneuro_tvm.cli.limit_options import (
    ErrorLimit,
    MemoryLimit,
    Pareto,
    Precision,
    WeightsLimit,
    WorkspaceLimit,
    parse_size,
)
from softneuro_tvm.cli.options import (
    Budget,
    InputShapes,
    Json,
    Model,
    Store,
    TuneThreads,
    parse_duration,
    parse_input_shapes,
    parse_threads,
)
from softneuro_tvm.cli.plan_tables import comparison_lines, memory_line, plan_table, thread_lines
from softneuro_tvm.cli.progress import ProgressBar
from softneuro_tvm.cli.tables import console, milliseconds, print_json
from softneuro_tvm.cli.what_if_options import Forbid, Force, Routine
from softneuro_tvm.device import HOST
from softneuro_tvm.errors import BoardsLostError
from softneuro_tvm.files import check_writable
from softneuro_tvm.lean_import import import_tvm
from softneuro_tvm.plan import Plan

if TYPE_CHECKING:
    import numpy as np

    from softneuro_tvm.remote.module import RemoteModule
    from softneuro_tvm.runtime import Module as BuiltModule

_FAILURES = 5
"""Rejected candidates that are named on the screen; `explain --layer` and `--json` name all."""

_TIMED_S = 0.5
"""So long the built network is timed, about."""
_SAMPLE_S = 1e-3
"""A sample is at least as long, about."""
_CALL_S = 1e-6
"""So long a network takes in which nothing is computed, about."""
_MIN_SAMPLES, _MAX_SAMPLES = 5, 200


def tune(
    model: Model,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Shared library to write; MODEL.so by default.")
    ] = None,
    input_shapes: InputShapes = None,
    threads: TuneThreads = None,
    tuning_records: Store = None,
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="Where to write the plan (JSON); beside the library by default.")
    ] = None,
    budget: Budget = None,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Measure every candidate, not only those that could change the plan.")
    ] = False,
    locked: Annotated[
        bool, typer.Option("--locked", help="Measure nothing; fail if the plan cannot be made from what is known.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Measure candidates again that crashed, hung or failed before.")
    ] = False,
    force: Force = None,
    forbid: Forbid = None,
    routine: Routine = None,
    memory_limit: MemoryLimit = None,
    workspace_limit: WorkspaceLimit = None,
    weights_limit: WeightsLimit = None,
    error_limit: ErrorLimit = None,
    precision: Precision = "float32",
    pareto: Pareto = False,
    verify: Annotated[bool, typer.Option(help="Compare the built module with onnxruntime.")] = True,
    target_device: Target = HOST,
    rpc_tracker: RpcTracker = None,
    rpc_key: RpcKey = None,
    rpc_server: RpcServer = None,
    rpc_session_timeout: RpcSessionTimeout = None,
    cross_compiler: CrossCompiler = None,
    dask_scheduler: DaskScheduler = None,
    json_output: Json = False,
) -> None:
    """Find the fastest routine for every layer of MODEL, here or on a board, and build a deployable library.

    Measures the routines that could be part of the fastest plan, one at a time; results are kept, so that a second run
    takes seconds. Leave the machine alone meanwhile. Ctrl-C ends measuring: the best plan so far is built, if there is
    one, and the same command resumes.
    """
    import_tvm()
    import softneuro_tvm as sn
    from softneuro_tvm.devices import load_device
    from softneuro_tvm.pipeline import TuneOptions, thread_counts
    from softneuro_tvm.reference import sample_inputs
    from softneuro_tvm.remote.module import on_board
    from softneuro_tvm.selection import Limits
    from softneuro_tvm.verification import verify as check

    begin = time.monotonic()
    limits = Limits(
        parse_size("--memory-limit", memory_limit),
        parse_size("--workspace-limit", workspace_limit),
        parse_size("--weights-limit", weights_limit),
        error_limit,
    )
    asked_threads = parse_threads(threads)
    device = load_device(target_device, None if asked_threads == "auto" else asked_threads)
    board = chosen_board(rpc_tracker, rpc_key, rpc_server, rpc_session_timeout, not device.runs_here)
    use_cross_compiler(cross_compiler)
    options = TuneOptions(
        budget_s=parse_duration(budget),
        exhaustive=exhaustive,
        locked=locked,
        retry_failed=retry_failed,
        limits=limits if limits.given else None,
        pareto=pareto,
        routine=routine or (),
        force=force or (),
        forbid=forbid or (),
        precision=precision,
        threads=thread_counts(device.threads) if asked_threads == "auto" else (),
        dask_scheduler=dask_scheduler,
    )
    loaded = sn.load(model, parse_input_shapes(input_shapes))
    target = output or Path(f"{Path(model.removeprefix('zoo:')).stem}.so")
    check_writable(target)
    if not json_output:
        layers = f"[bold]{loaded.graph.name}[/bold]: {len(loaded.graph.layers)} layers"
        compared = f"; comparing {', '.join(map(str, options.threads))} thread(s)" if options.threads else ""
        where = f", measuring on {board.place}" if board else ""
        console.print(f"{layers}, tuning for {device.description}{where}{compared}")
    bar = ProgressBar(json_output, options.budget_s)
    try:
        plan = sn.tune(loaded, device=device, store=tuning_records, observer=bar, options=options, board=board)
    except BoardsLostError as error:
        raise BoardsLostError(f"{error}:\n  {shlex.join(['softneuro-tvm', *sys.argv[1:]])}") from error
    finally:
        bar.finished()
    tuned_s = time.monotonic() - begin
    plan.save(plan_file or target.with_suffix(".plan.json"))
    module = sn.build(loaded, plan)
    with on_board(board, module) if board else nullcontext(module) as there:
        agreement = check(loaded, plan, there) if verify else None
        module.export(target)
        samples_s = _timed(there, sample_inputs(loaded.graph), plan.predicted_s)
    if json_output:
        print_json(
            {
                "output": str(target),
                "measurements": bar.counts,
                "rejected": bar.failures,
                "tuning": dict(plan.tuning),
                "tuning_s": tuned_s,
                "predicted_s": plan.predicted_s,
                "measured_s": statistics.median(samples_s),
                "fastest_s": min(samples_s),
                "error": agreement.error if agreement else None,
                "reference": agreement.reference if agreement else None,
                "comparison": dict(plan.comparison),
                "resources": dict(plan.resources),
                "limits": dict(plan.limits),
                "pareto": [dict(point) for point in plan.pareto],
                "memory": module.manifest["memory"],
            }
        )
    else:
        console.print(plan_table(plan))
        for line in (*comparison_lines(plan, samples_s), *thread_lines(plan)):
            console.print(line)
        console.print(memory_line(module.manifest["memory"]))
        if agreement:
            allowed = f"(allowed {agreement.tolerance:.1e})"
            console.print(f"agrees with {agreement.reference}: relative error {agreement.error:.1e} {allowed}")
        for failure in bar.failures[:_FAILURES]:
            console.print(f"[yellow]rejected[/yellow] {failure.splitlines()[0]}", highlight=False)
        console.print(_effort(plan, bar))
        whole_s = time.monotonic() - begin
        console.print(f"{tuned_s:.0f} s for tuning, {whole_s:.0f} s in all; wrote [bold]{target}[/bold]")
    if plan.tuning["stopped"] == "interrupted":
        raise KeyboardInterrupt  # what could be saved is saved


def _timed(module: BuiltModule | RemoteModule, inputs: Mapping[str, np.ndarray], expected_s: float) -> list[float]:
    """Seconds of a run of a built network in each sample."""
    expected_s = max(expected_s, _CALL_S)
    number = math.ceil(_SAMPLE_S / expected_s)
    repeat = int(_TIMED_S / (number * expected_s))
    return module.time(module.tensors([], inputs), min(_MAX_SAMPLES, max(_MIN_SAMPLES, repeat)), number)


def _effort(plan: Plan, bar: ProgressBar) -> str:
    """What was measured, and how sure the plan is."""
    from softneuro_tvm.tuner import TunerOptions

    counts, tuning = bar.counts, plan.tuning
    text = (
        f"{counts['measured']} candidates measured now ({counts['failed']} failed), {counts['known']} known from "
        f"before, {tuning['skipped']} of {tuning['candidates']} never measured: "
    )
    bound = ""
    if bar.bound_s and bar.bound_s < plan.predicted_s and "threads" not in tuning:
        bound = f"; by the cost model no plan takes less than {milliseconds(bar.bound_s)} ms"
    reasons = {
        "proved": f"by the cost model none of them could make the plan {TunerOptions().gap:.1%} faster",
        "settled": f"they are not likely to make the plan much faster{bound}",
        "budget": f"the time was over{bound}",
        "interrupted": f"interrupted{bound}",
    }
    return text + (reasons[tuning["stopped"]] if tuning["skipped"] else "all were measured")
