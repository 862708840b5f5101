"""The flow: import -> enumerate -> profile -> select -> build -> run, each stage one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softneuro_tvm.builder import build as build_module
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.device import Device, host_device
from softneuro_tvm.errors import PlanError
from softneuro_tvm.graph import Graph
from softneuro_tvm.importer import import_model
from softneuro_tvm.plan import Plan
from softneuro_tvm.profiler import profile_candidates, residency_of
from softneuro_tvm.profiler.observer import Observer
from softneuro_tvm.profiler.store import ProfileStore
from softneuro_tvm.runtime import Module
from softneuro_tvm.selection import select


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
    model: Model, *, device: Device | None = None, store: str | Path | None = None, observer: Observer | None = None
) -> Plan:
    """Measures what could compute each layer on this machine and selects the fastest combination.

    Args:
        model: What `load` returned.
        device: What to tune for; this machine with all its cores by default.
        store: Profile store; the user's cache folder by default. Known measurements are not repeated.
        observer: Is told about progress.

    Raises:
        SelectionError: a layer for which no routine worked.
        ProfileError: measuring failed as a whole.
    """
    device = device or host_device()
    residency = residency_of(model.graph.weight_bytes, device)
    candidates = enumerate_candidates(model.graph, device)
    with ProfileStore(store) as profiles:
        profile = profile_candidates(candidates.all(), device, profiles, residency=residency, observer=observer)
        if failed := [w for w, options in candidates.by_workload.items() if not any(profile[c].ok for c in options)]:
            candidates = enumerate_candidates(model.graph, device, last_resorts=failed)
            profile = profile_candidates(candidates.all(), device, profiles, residency=residency, observer=observer)
    return select(model.graph, candidates, profile, device)


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
