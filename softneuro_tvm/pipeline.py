"""The flow: import -> enumerate -> profile -> select -> build -> run, each stage one call."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softneuro_tvm.builder import build as build_module
from softneuro_tvm.device import Device, check_local, from_json, host_device
from softneuro_tvm.errors import DeviceError, PlanError
from softneuro_tvm.graph import Graph
from softneuro_tvm.importer import import_model
from softneuro_tvm.plan import Plan
from softneuro_tvm.profiler import Observer, ProfileStore
from softneuro_tvm.profiler.cluster import CompileCluster
from softneuro_tvm.remote import Board
from softneuro_tvm.remote.site import Site
from softneuro_tvm.runtime import Module
from softneuro_tvm.thread_choice import thread_counts, tune_threads
from softneuro_tvm.tuning import TuneContext, TuneOptions

logger = logging.getLogger(__name__)

__all__ = ["Model", "TuneOptions", "build", "load", "thread_counts", "tune"]


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


def tune(
    model: Model,
    *,
    device: Device | None = None,
    store: str | Path | None = None,
    observer: Observer | None = None,
    options: TuneOptions | None = None,
    board: Board | None = None,
) -> Plan:
    """Measures what could be part of the fastest combination of routines, here or on a board, and selects it.

    An interrupt (Ctrl-C) ends measuring; the best plan so far is returned if there is one, and says so in `tuning`.

    Args:
        model: What `load` returned.
        device: What to tune for; this machine with all its cores by default. `TuneOptions.threads` overrules its number
            of threads.
        store: Profile store; the user's cache folder by default. Known measurements are not repeated.
        observer: Is told about progress.
        options: How to tune.
        board: Where to measure; here by default.

    Raises:
        DeviceError: the device is of another kind than this machine, and there is no board.
        BoardError: the board cannot be reached, or is not what the device is.
        RestrictionError: a descriptor cannot be read, or the restrictions leave nothing.
        SelectionError: a layer for which no routine worked, or no plan keeps the limits.
        ClusterError: the dask scheduler cannot be reached, or its workers would compile something else.
        ProfileError: measuring failed as a whole, or was forbidden.
        KeyboardInterrupt: by the user, before there was a plan.
    """
    options, device = options or TuneOptions(), device or host_device()
    end_s = math.inf if options.budget_s is None else time.monotonic() + options.budget_s
    if board is None:
        check_local(device)
    with ProfileStore(store) as profiles, ExitStack() as stack:
        site = stack.enter_context(Site(board)) if board else None
        device = site.device(device) if site else device
        if options.precision == "mixed" and not device.has_float16:
            logger.warning("%s has no float16 arithmetic: everything is computed in float32", device.part)
        scheduler = options.dask_scheduler
        cluster = stack.enter_context(CompileCluster(scheduler, device)) if scheduler else None
        context = TuneContext(model.graph, options, profiles, observer, end_s, site, cluster)
        if options.threads:
            return tune_threads(context, device, options.threads)
        return context.finished(context.tune(device, end_s))


def build(model: Model, plan: Plan) -> Module:
    """Builds the module that a plan describes; nothing is measured.

    Raises:
        PlanError: the plan was made for another model, or on another machine for that one.
        BuildError: code generation failed.
    """
    try:
        device = from_json(plan.device)
    except DeviceError as error:
        raise PlanError(f"the plan was {error}; tune here again") from error
    source = str(model.source) if isinstance(model.source, str | Path) else ""
    if source and not source.startswith("zoo:"):
        source = str(Path(source).resolve())
    return build_module(model.graph, plan, device, source)
