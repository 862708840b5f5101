"""The number of threads of a plan, by measurement: one plan for each number, timed as whole networks in turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from softneuro_tvm.cost_model.features import workload_facts
from softneuro_tvm.device import Device
from softneuro_tvm.finalists import FINALISTS, time_plans, winner
from softneuro_tvm.graph import Graph
from softneuro_tvm.plan import Plan
from softneuro_tvm.tuning import FINALS_S, TuneContext, Tuned

_DIFFERENT = 0.05
"""By this share the sum of layers' times may be off from the network's for one number of threads and not another."""
_WORTH_CORES = 0.03
"""More threads are taken if the network is faster by this share: they keep cores from other work."""
_WORTH_SHARING_S = 1e-5
"""Layers that take less on one core, by nominal figures, are likely not worth sharing among several."""


def thread_counts(most: int) -> tuple[int, ...]:
    """The numbers of threads that are worth comparing: 1, 2, 4 and so on, and the most."""
    return (*(1 << i for i in range((most - 1).bit_length())), most)


def likely_first(graph: Graph, device: Device, counts: Sequence[int]) -> list[int]:
    """Numbers of threads, the likely fastest first: the most of them unless the layers are small."""
    one = device.with_threads(1)
    seconds = [workload_facts(graph.workload(layer), one, "l2").roofline_s for layer in graph.layers]
    return sorted(set(counts), reverse=sum(seconds) > _WORTH_SHARING_S * len(seconds))


def tune_threads(context: TuneContext, device: Device, counts: Sequence[int]) -> Plan:
    """Tunes for several numbers of threads within one budget, and returns the plan whose network is fastest.

    A number of threads is dropped as soon as the cost model expects no plan that could be the fastest. Of about equally
    fast plans, the one with fewest threads is taken.

    Args:
        context: What tuning needs.
        device: What to tune for, with any number of threads.
        counts: The numbers of threads.

    Raises:
        SoftNeuroError: as `TuneContext.tune` does.
        KeyboardInterrupt: by the user, before there was a plan.
    """
    runs, interrupted = _tune_each(context, device, likely_first(context.graph, device, counts))
    found = {run.device.threads: run for run in sorted(runs, key=lambda run: run.device.threads)}
    plans = {threads: run.plan for threads, run in found.items() if run.plan is not None}
    timed: dict[int, Plan] = {}
    try:
        if not interrupted and len(plans) > 1:
            timed = _timed(context, device, plans)
    except KeyboardInterrupt:
        interrupted = True
    if timed:
        best = winner(list(timed.values()), _WORTH_CORES)
    else:
        best = min(plans.values(), key=lambda plan: plan.predicted_s)
    chosen = found[int(best.device["threads"])]
    if interrupted:
        chosen = replace(chosen, tuning=replace(chosen.tuning, stopped="interrupted"))
    plan = context.finished(replace(chosen, plan=best))
    compared = [_summary(run, timed.get(threads)) for threads, run in found.items()]
    return replace(plan, tuning={**plan.tuning, "threads": compared})


def _tune_each(context: TuneContext, device: Device, counts: Sequence[int]) -> tuple[list[Tuned], bool]:
    """Tunes for one number of threads after the other; the second result tells whether the user ended that.

    Each may take half of the time that is left; the last one, all of it. There is a first plan in any case.
    """
    runs: list[Tuned] = []
    best_s = math.inf
    for number, threads in enumerate(counts, 1):
        begin_s = time.monotonic()
        left_s = context.end_s - (FINALS_S if len(counts) > 1 else 0.0) - begin_s
        if runs and left_s <= 0:
            break
        share = 0.5 if number < len(counts) else 1.0
        limit_s = math.inf if context.options.measures_all else best_s * (1 + _DIFFERENT)
        try:
            run = context.tune(device.with_threads(threads), begin_s + share * left_s, limit_s)
        except KeyboardInterrupt:
            if not runs:
                raise
            return runs, True
        runs.append(run)
        if run.plan is not None:
            best_s = min(best_s, run.plan.predicted_s)
        if run.tuning.stopped == "interrupted":
            return runs, True
    return runs, False


def _timed(context: TuneContext, device: Device, plans: dict[int, Plan]) -> dict[int, Plan]:
    """The plans that are fastest by prediction with the times of their networks; none if they cannot be timed."""
    near = sorted(plans, key=lambda threads: plans[threads].predicted_s)[:FINALISTS]
    entrants = [plans[threads] for threads in sorted(near)]
    store, locked = context.store, context.options.locked
    timed = time_plans(context.graph, entrants, device, store, context.time_networks, locked=locked)
    return {int(plan.device["threads"]): plan for plan in timed}


def _summary(run: Tuned, timed: Plan | None) -> dict[str, Any]:
    """What the plan that is chosen says of one number of threads; seconds of no plan are those expected of the best."""
    return {
        "threads": run.device.threads,
        "predicted_s": run.plan.predicted_s if run.plan else run.tuning.bound_s,
        "measured_s": statistics.median(timed.samples_s) if timed else None,
        "stopped": run.tuning.stopped,
    }
