"""The flow: import -> enumerate -> profile -> select -> build -> run, each stage one call."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from softneuro_tvm.builder import build as build_module
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.cost_model import CostModel
from softneuro_tvm.device import Device, host_device
from softneuro_tvm.errors import PlanError
from softneuro_tvm.finalists import play_finals
from softneuro_tvm.fingerprint import fingerprint
from softneuro_tvm.graph import Graph
from softneuro_tvm.importer import import_model
from softneuro_tvm.plan import Plan
from softneuro_tvm.profiler import Observer, Profiler, ProfileStore, residency_of
from softneuro_tvm.restrictions import Restrictions
from softneuro_tvm.runtime import Module
from softneuro_tvm.selection import Limits, select
from softneuro_tvm.selection.pareto import pareto
from softneuro_tvm.tuner import Network, Tuner, TunerOptions


@dataclass(frozen=True, eq=False)
class Model:
    """A model that was loaded: the graph of layers, and where it came from.

    Args:
        graph: Layers as this package sees them.
        source: What `load` was given; the reference runtime reads it again to verify.
        input_shapes: As given to `load`.
    """

    graph: Graph
    source: Any
    input_shapes: Mapping[str, Sequence[int]] | None = None


def load(source: Any, input_shapes: Mapping[str, Sequence[int]] | None = None) -> Model:
    """Imports a model.

    Args:
        source: Path of an ONNX file, ``zoo:NAME``, an `onnx.ModelProto`, or a TVM `IRModule` (Relax).
        input_shapes: Shapes by input name, for inputs whose shape the model leaves open.

    Raises:
        ModelError: the model cannot be read or imported; says what to do.
    """
    return Model(import_model(source, input_shapes=input_shapes), source, input_shapes)


_FINALS_S = 10.0
"""Whole networks are timed if at least so many seconds of the budget are left."""


@dataclass(frozen=True)
class TuneOptions:
    """How to tune.

    Args:
        budget_s: Seconds for measuring; the first plan is completed even if it takes longer. As long as it takes by
            default.
        exhaustive: Measures every candidate instead of those that could change the plan; so do limits and fronts.
        locked: Measures nothing, and fails if anything would have to be measured.
        retry_failed: Measures candidates again that failed before.
        limits: Resources that the plan must not exceed.
        pareto: Also finds the plans that trade time for memory and for accuracy.
        routine: Descriptors of what is used wherever it can be used.
        force: Descriptors, with layers, of what is used whatever it costs.
        forbid: Descriptors of what is not used.
        finals: Times whole networks where plans of different kinds are close.
        search: How far active measuring goes.
    """

    budget_s: float | None = None
    exhaustive: bool = False
    locked: bool = False
    retry_failed: bool = False
    limits: Limits | None = None
    pareto: bool = False
    routine: Sequence[str] = ()
    force: Sequence[str] = ()
    forbid: Sequence[str] = ()
    finals: bool = True
    search: TunerOptions = field(default_factory=TunerOptions)


def tune(
    model: Model,
    *,
    device: Device | None = None,
    store: str | Path | None = None,
    observer: Observer | None = None,
    options: TuneOptions | None = None,
) -> Plan:
    """Measures what could be part of the fastest combination of routines on this machine, and selects it.

    An interrupt (Ctrl-C) ends measuring; the best plan so far is returned if there is one, and says so in `tuning`.

    Args:
        model: What `load` returned.
        device: What to tune for; this machine with all its cores by default.
        store: Profile store; the user's cache folder by default. Known measurements are not repeated.
        observer: Is told about progress.
        options: How to tune.

    Raises:
        RestrictionError: a descriptor cannot be read, or the restrictions leave nothing.
        SelectionError: a layer for which no routine worked, or no plan keeps the limits.
        ProfileError: measuring failed as a whole, or was forbidden.
        KeyboardInterrupt: by the user, before there was a plan.
    """
    begin = time.monotonic()
    graph, device, options = model.graph, device or host_device(), options or TuneOptions()
    residency = residency_of(graph.weight_bytes, device)
    candidates = enumerate_candidates(graph, device)
    rules = Restrictions(graph, candidates, routine=options.routine, force=options.force, forbid=options.forbid)
    network = Network(graph, rules.candidates(candidates), rules) if rules else Network(graph, candidates)
    exhaustive = options.exhaustive or options.limits is not None or options.pareto
    with (
        ProfileStore(store, fingerprint=fingerprint(device)) as profiles,
        Profiler(
            device, profiles, residency=residency, observer=observer, retry_failed=options.retry_failed
        ) as profiler,
    ):
        tuner = Tuner(
            network,
            profiler,
            CostModel.for_device(device, residency),
            math.inf if options.budget_s is None else begin + options.budget_s,
            replace(options.search, exhaustive=exhaustive, locked=options.locked),
        )
        tuning = tuner.run()
        plan = select(
            graph,
            tuner.network.candidates,
            profiler.results,
            device,
            limits=options.limits,
            allowed=tuner.network.allowed,
        )
        if tuning.stopped != "interrupted":
            try:
                plan = _refined(plan, tuner, options, profiles)
            except KeyboardInterrupt:
                tuning = replace(tuning, stopped="interrupted")
    summary = tuning.summary | ({"restrictions": rules.texts} if rules else {})
    return replace(plan, tuning=summary)


def _refined(plan: Plan, tuner: Tuner, options: TuneOptions, profiles: ProfileStore) -> Plan:
    """The plan with its front, or the one of its rivals that is faster as a whole network."""
    network, results, device = tuner.network, tuner.profiler.results, tuner.profiler.device
    if options.pareto:
        found = (network.graph, network.candidates, results, device)
        return replace(plan, pareto=pareto(*found, limits=options.limits, allowed=network.allowed))
    in_time = tuner.deadline_s - time.monotonic() > _FINALS_S
    if options.finals and options.limits is None and in_time:
        return play_finals(network, results, device, plan, profiles, locked=options.locked)
    return plan


def build(model: Model, plan: Plan) -> Module:
    """Builds the module that a plan describes; nothing is measured.

    Raises:
        PlanError: the plan was made for another model, or another device than this machine.
        BuildError: code generation failed.
    """
    device = host_device(int(plan.device["threads"]))
    if dict(device.target) != dict(plan.device["target"]):
        raise PlanError(
            f"the plan was made for {plan.device['target']}, this machine is {dict(device.target)}; tune here again"
        )
    source = str(model.source) if isinstance(model.source, str | Path) else ""
    if source and not source.startswith("zoo:"):
        source = str(Path(source).resolve())
    return build_module(model.graph, plan, device, source)
