"""The identity of a measurement: everything that its value depends on. Needs no TVM."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args

from softneuro_tvm import registry
from softneuro_tvm.device import Device
from softneuro_tvm.errors import ProfileError
from softneuro_tvm.routine import Candidate, Routine, Variant

Residency = Literal["l2", "l3", "dram"]
"""Where a layer's weights lie when the network reaches the layer."""


@dataclass(frozen=True)
class Key:
    """What a measurement depends on; equal keys share one record.

    Args:
        workload: Canonical text of the workload (`Workload.json`).
        routine: Name of the routine.
        params: The variant's parameters as text.
        formats: The variant's formats as text.
        source: Stands for the source of the routine and of the code generator.
        target: TVM target as JSON.
        part: The processor's name.
        threads: Threads that the kernel may use.
        tvm: Version of TVM.
        residency: Where the weights were kept.
    """

    workload: str
    routine: str
    params: str
    formats: str
    source: str
    target: str
    part: str
    threads: int
    tvm: str
    residency: str

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that stand for the key."""
        return hashlib.sha256(json.dumps(self.values).encode()).hexdigest()[:32]

    @property
    def values(self) -> tuple[str | int, ...]:
        """All fields in order; `dataclasses.astuple` would copy each of them."""
        return tuple(getattr(self, name) for name in KEY_FIELDS)

    @property
    def kind(self) -> str:
        """The layer kind of the workload; empty for a whole network.

        Raises:
            ValueError: the workload is malformed.
        """
        if self.routine == NETWORK:
            return ""
        workload = json.loads(self.workload)
        if not isinstance(workload, dict):
            raise ValueError("the workload is no JSON object")
        return str(workload.get("kind"))


KEY_FIELDS = tuple(field.name for field in fields(Key))
"""Names of a key's fields, in order."""


def formats_text(variant: Variant) -> str:
    """The formats of all ports, e.g. ``cpu:float32:NCHW -> cpu:float32:NCHW8c``."""
    return f"{' '.join(map(str, variant.inputs))} -> {' '.join(map(str, variant.outputs))}"


def candidate_text(candidate: Candidate) -> str:
    """Names a candidate in files: workload digest, routine, parameters and formats."""
    variant = candidate.variant
    name = f"{candidate.routine.name}/{variant.params_text}" if variant.params else candidate.routine.name
    return f"{candidate.workload.digest} {name} {formats_text(variant)}"


@lru_cache
def _source(routine: type[Routine]) -> str:
    """Hash of the routine's source (for a registered one with its package's helpers) and of the code generator's.

    Raises:
        ProfileError: the routine was typed in, so its source is not known.
    """
    registered = registry.routines().get(routine.name)
    module = inspect.getmodule(routine)
    assert module is not None
    try:
        own = registry.source_hash(routine.name) if type(registered) is routine else inspect.getsource(module)
    except (OSError, TypeError) as error:
        raise ProfileError(f"routine {routine.name!r} has no source file ({error}); put it into a module") from error
    generator = Path(__file__).parents[1] / "codegen.py"
    return hashlib.sha256(own.encode() + generator.read_bytes()).hexdigest()[:12]


@lru_cache
def sources_digest() -> str:
    """Stands for the sources of all registered routines and of the code generator."""
    sources = [(name, _source(type(routine))) for name, routine in registry.routines().items()]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:12]


@lru_cache
def _tvm_version() -> str:
    return version("apache-tvm")


NETWORK = "network"
"""Stands for a routine in the keys of whole networks."""
_NOT_BUILT = "search"
"""Stands for the builder's source in the keys of what does not depend on it."""


@lru_cache
def _builder_source() -> str:
    """Hash of what turns a plan into a module."""
    package = Path(__file__).parents[1]
    names = ("activation_memory", "builder", "call_runs", "call_sequence", "codegen")
    return hashlib.sha256(b"".join((package / f"{name}.py").read_bytes() for name in names)).hexdigest()[:12]


def network_key(graph: str, plan: str, device: Device) -> Key:
    """The key of a whole network's measurement.

    Args:
        graph: The graph's digest.
        plan: Stands for all that the plan chooses.
        device: This machine, with the number of threads.
    """
    return _of_network(graph, plan, _builder_source(), device)


def search_key(graph: str, search: str, device: Device) -> Key:
    """The key of what was found out about a network without building it.

    Args:
        graph: The graph's digest.
        search: Stands for all else that it depends on.
        device: As in `network_key`.
    """
    return _of_network(graph, search, _NOT_BUILT, device)


def _of_network(graph: str, plan: str, source: str, device: Device) -> Key:
    target = json.dumps(dict(device.target), sort_keys=True)
    return Key(graph, NETWORK, plan, "", source, target, device.part, device.threads, _tvm_version(), "dram")


def is_current(key: Key) -> bool:
    """True if measuring again would use the same key: its routine's source and TVM's version are those of now."""
    if key.routine == NETWORK:
        return key.tvm == _tvm_version() and key.source in (_builder_source(), _NOT_BUILT)
    routine = registry.routines().get(key.routine)
    return routine is not None and key.tvm == _tvm_version() and key.source == _source(type(routine))


def measurement_key(candidate: Candidate, device: Device, residency: Residency) -> Key:
    """The key of a candidate's measurement.

    Raises:
        ProfileError: unknown residency.
    """
    if residency not in get_args(Residency):
        raise ProfileError(f"residency {residency!r} is unknown; choose one of {', '.join(get_args(Residency))}")
    rotates = registry.layer_kind(candidate.workload.kind).shares_weights(candidate.workload)
    return Key(
        workload=candidate.workload.json,
        routine=candidate.routine.name,
        params=candidate.variant.params_text,
        formats=formats_text(candidate.variant),
        source=_source(type(candidate.routine)),
        target=json.dumps(dict(device.target), sort_keys=True),
        part=device.part,
        threads=device.threads,
        tvm=_tvm_version(),
        residency=residency if rotates else "l2",
    )


def residency_of(weight_bytes: int, device: Device) -> Residency:
    """Where a network's weights lie between two runs of a layer.

    Args:
        weight_bytes: Bytes of all weights of the network.
        device: Tells the sizes of the caches; half of each is left to activations.
    """
    if weight_bytes > device.l3_bytes // 2:
        return "dram"
    return "l3" if weight_bytes > device.l2_bytes // 2 else "l2"


def weight_copies(weight_bytes: int, residency: Residency, device: Device) -> int:
    """Copies of a layer's weights over which calls rotate, so that each call finds its weights where `residency` says.

    Args:
        weight_bytes: Bytes of the layer's packed weights.
        residency: Where they should lie.
        device: Tells the sizes of the caches.
    """
    if not weight_bytes or residency == "l2":
        return 1
    if residency == "l3":
        wanted, limit = 2 * device.l2_bytes, device.l3_bytes // 2
    else:
        wanted, limit = 2 * device.l3_bytes, max(256 << 20, 2 * device.l3_bytes)
    if weight_bytes >= wanted:
        return 1  # one pass over them evicts their beginning
    return max(2, min(wanted // weight_bytes + 1, limit // weight_bytes, 64))
