"""TVM's MetaSchedule on a whole network: extracts tasks, tunes them until time is over, builds a library.

It runs in a process of its own (`python -m softneuro_tvm.benchmark.metaschedule`): its children are forked, which
asks for a process in which TVM's thread pool was never started. A work folder keeps MetaSchedule's database, its
logs, the library, and ``metaschedule.json``: what was done so far.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import relax
from tvm.relax.backend.cpu_generic import pipeline as cpu_pipeline
from tvm.relax.frontend.onnx import from_onnx
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.analysis import estimate_tir_flops

from softneuro_tvm.benchmark.metaschedule_measuring import Budget, ForkedBuilder, ForkedRunner
from softneuro_tvm.device import Device, available_cores, host_device
from softneuro_tvm.errors import ModelError, ProfileError
from softneuro_tvm.files import write_atomically
from softneuro_tvm.linking import linker
from softneuro_tvm.plain import onnx_model
from softneuro_tvm.quiet import quiet_constants

logger = logging.getLogger(__name__)

LIBRARY = "metaschedule.so"
"""Name of the library in the work folder."""
SUMMARY = "metaschedule.json"
"""Name of the file in the work folder that says what was done."""
_UNLIMITED = 1 << 30
_VISITS = 3
_VISIT_S = 60.0
"""Seconds that one visit of a task takes with MetaSchedule's own numbers, roughly: search, build, and run."""


@dataclass(frozen=True)
class Search:
    """How thoroughly one task is searched before MetaSchedule turns to the next.

    Args:
        batch: Candidates that are measured.
        population: Schedules that evolve before.
        seed: Of the random numbers.
    """

    batch: int
    population: int
    seed: int = 0


def search_within(budget_s: float, tasks: int) -> Search:
    """MetaSchedule's own numbers, or smaller ones if the budget would not suffice to visit each task three times."""
    share = min(1.0, budget_s / (_VISITS * _VISIT_S * tasks))
    return Search(max(8, round(64 * share)), max(64, round(512 * share)))


def target_of(device: Device) -> Any:
    """The device's target as MetaSchedule needs it: with the number of cores to parallelise for."""
    return tvm.target.Target({**device.target, "num-cores": device.threads})


def prepare(source: str, target: Any) -> Any:
    """The model as TVM's default pipeline lowers and fuses it, weights marked as free to be laid out anew.

    Args:
        source: ONNX file or ``zoo:NAME``.
        target: From `target_of`.
    """
    model = onnx_model(source)
    if model is None:
        raise ModelError(f"{source!r} is no ONNX model")
    passes = [
        relax.transform.DecomposeOpsForInference(),
        relax.transform.CanonicalizeBindings(),
        *cpu_pipeline.library_dispatch_passes(target),
        *cpu_pipeline.legalize_passes(target),
        relax.transform.AttachAttrLayoutFreeBuffers(),
    ]
    with target, tvm.transform.PassContext(opt_level=3):
        return tvm.transform.Sequential(passes)(from_onnx(model, sanitize_input_names=False))


def extract(module: Any, target: Any) -> list[Any]:
    """The network's tasks, those with the most work first: a short budget may not suffice to visit each."""

    def work(task: Any) -> float:
        return float(estimate_tir_flops(task.dispatched[0])) * int(task.weight)

    return sorted(ms.relax_integration.extract_tasks(module, target), key=work, reverse=True)


def tune(tasks: list[Any], folder: Path, budget: Budget, search: Search) -> tuple[Any, int]:
    """Tunes tasks with MetaSchedule's defaults until the budget is spent.

    Args:
        tasks: From `extract`.
        folder: For the database and logs; a database that is there already is gone on with.
        budget: When to end.
        search: How thoroughly to search.

    Returns:
        The database, and how many tasks have a measured schedule in it.
    """
    contexts, weights = ms.relax_integration.extracted_tasks_to_tune_contexts(
        tasks,
        str(folder),
        strategy=ms.search_strategy.EvolutionarySearch(population_size=search.population),
        seed=search.seed,
    )
    scheduler = ms.TaskScheduler.create("gradient")
    database = ms.database.Database.create("json", work_dir=str(folder))
    with tempfile.TemporaryDirectory(prefix="softneuro_tvm-") as scratch:
        try:
            ms.tune_tasks(
                tasks=contexts,
                task_weights=weights,
                work_dir=str(folder),
                max_trials_global=_UNLIMITED,
                num_trials_per_iter=search.batch,
                builder=ForkedBuilder(budget, Path(scratch), available_cores()),
                runner=ForkedRunner(budget),
                database=database,
                task_scheduler=scheduler,
            )
        except Exception:
            if not budget.stopped:
                raise
        for task in range(len(contexts)):
            scheduler.touch_task(task)  # records what was measured but not yet collected
    tops = [database.get_top_k(database.commit_workload(context.mod), 1) for context in contexts]
    return database, sum(len(top) > 0 for top in tops)


def build(module: Any, target: Any, database: Any, path: Path) -> None:
    """Builds the network with the best schedules of the database; weights are laid out as these want them.

    Raises:
        BuildError: the library cannot be written.
    """
    with target, database, tvm.transform.PassContext(opt_level=3):
        passes = [
            relax.transform.MetaScheduleApplyDatabase(),
            relax.transform.SplitLayoutRewritePreproc(),
            relax.transform.FoldConstant(),
            relax.transform.CanonicalizeBindings(),
            relax.transform.DeadCodeElimination(),
            *cpu_pipeline.dataflow_lower_passes(target),
            *cpu_pipeline.finalize_passes(target),
        ]
        executable = relax.build(module, target, relax_pipeline=tvm.transform.Sequential(passes))
    with quiet_constants():
        executable.export_library(str(path), fcompile=linker())


def read_summary(folder: Path) -> dict[str, Any]:
    """What was done in a work folder; empty if nothing was."""
    path = folder / SUMMARY
    return dict(json.loads(path.read_text())) if path.exists() else {}


def run(
    source: str, threads: int, budget_s: float, folder: Path, batch: int | None = None, population: int | None = None
) -> None:
    """Tunes and builds in a work folder; goes on where an earlier run ended.

    Args:
        source: ONNX file or ``zoo:NAME``.
        threads: Threads of each candidate, and of the network.
        budget_s: Seconds of tuning in all, those of earlier runs included.
        folder: Work folder.
        batch: As in `Search`; what suits the budget by default.
        population: As `batch`.

    Raises:
        ProfileError: the folder holds another model's database.
    """
    import tvm.s_tir.tensor_intrin  # noqa: F401  the schedule rules name intrinsics; takes long, but only once

    done = read_summary(folder)
    if done and (done["model"], done["threads"]) != (source, threads):
        raise ProfileError(f"{str(folder)!r} belongs to {done['model']} with {done['threads']} thread(s); use another")
    begin, before_s = time.monotonic(), float(done.get("seconds", 0.0))
    target = target_of(host_device(threads))
    module = prepare(source, target)
    tasks = extract(module, target)
    suited = search_within(budget_s, len(tasks))
    search = Search(batch or suited.batch, population or suited.population)

    def save(budget: Budget, **more: Any) -> None:
        seconds = min(budget_s, before_s + time.monotonic() - begin)
        logger.info("%.0f s of %.0f: %d candidates timed", seconds, budget_s, budget.measured)
        summary = {
            "model": source,
            "threads": threads,
            "seconds": seconds,
            "tasks": len(tasks),
            "search": asdict(search),
            "measured": budget.measured + int(done.get("measured", 0)),
            "failures": budget.failures,
        }
        write_atomically(folder / SUMMARY, (json.dumps(summary | more, indent=1) + "\n").encode())

    budget = Budget(begin + budget_s - before_s, save)
    database, tuned = tune(tasks, folder, budget, search)
    build(module, target, database, folder / LIBRARY)
    names = [str(parameter.name) for parameter in module["main"].params]
    save(budget, tuned_tasks=tuned, records=len(database), inputs=names)


def main() -> None:
    """The process that `scripts/compare_metaschedule` starts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--population", type=int)
    given = parser.parse_args()
    logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.WARNING)  # its tables go to files
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.setLevel(logging.INFO)
    run(given.model, given.threads, given.seconds, given.folder, given.batch, given.population)


if __name__ == "__main__":
    main()
