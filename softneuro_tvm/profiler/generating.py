"""Generates and compiles candidates; the values of their weights are not needed, so it may be done on any machine."""

from __future__ import annotations

import pickle
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, Literal

from tvm import tirx

from softneuro_tvm.device import Device
from softneuro_tvm.formats import OPEN, Format, TensorType, physical_shape
from softneuro_tvm.kernel_objects import keyed_object, with_symbol
from softneuro_tvm.kernel_objects import symbol as symbol_of
from softneuro_tvm.object_cache import ObjectCache
from softneuro_tvm.profiler.keys import sources_digest
from softneuro_tvm.profiler.messages import Toolchain
from softneuro_tvm.remote.driver import rotation, rotation_symbol
from softneuro_tvm.routine import Candidate, View

Argument = tuple[tuple[int, ...], str]
"""Shape and element type of what a kernel takes; extents that depend on data are `OPEN`."""


@dataclass(frozen=True)
class Generated:
    """A candidate without its weights.

    Args:
        form: ``kernel``; ``relax``: something for the virtual machine, which is compiled where it is linked; ``view``:
            nothing runs; ``failed``.
        symbol: Of the kernel.
        objects: By symbol: the key in the object cache and the contents of an object file. The kernel, and what calls
            it with the next copy of its weights.
        arguments: What the kernel takes.
        module: The `IRModule` for the virtual machine; None if it comes from another process.
        message: Why it failed.
    """

    form: Literal["kernel", "relax", "view", "failed"]
    symbol: str = ""
    objects: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    arguments: tuple[Argument, ...] = ()
    module: Any = None
    message: str = ""

    @staticmethod
    def failure(error: Exception) -> Generated:
        """What an exception of a routine or of TVM comes to."""
        return Generated("failed", message=f"{type(error).__name__}: {error}"[:2000])


def generate(candidate: Candidate, device: Device, cache: ObjectCache, elsewhere: bool) -> Generated:
    """Generates a candidate, and compiles it unless the object cache holds it.

    Args:
        candidate: What to generate.
        device: What for.
        cache: Where objects are looked for, and kept.
        elsewhere: Whether it is measured on a board: then there is a `rotation` function, too.
    """
    emitted = candidate.routine.emit(candidate.workload, candidate.variant, device)
    if isinstance(emitted, View):
        return Generated("view")
    if not isinstance(emitted, tirx.PrimFunc):
        return Generated("relax", module=emitted)
    kernel = with_symbol(emitted, candidate.routine.name)
    symbol, arguments = symbol_of(kernel), declared_arguments(kernel)
    functions = {symbol: kernel}
    weights = arguments[len(candidate.workload.inputs) : len(arguments) - len(candidate.workload.outputs)]
    if elsewhere and weights:
        functions[rotation_symbol(symbol)] = _rotation(candidate, symbol, weights)
    objects = {name: keyed_object(function, device.target, cache) for name, function in functions.items()}
    return Generated("kernel", symbol, objects, arguments)


def generate_pickled(pickled: bytes, device: Device, elsewhere: bool) -> Generated:
    """The same for a pickled candidate, for another process; the object cache is this machine's.

    Raises:
        Exception: the candidate cannot be loaded, of any type; what its routine raises is its result.
        OSError: something cannot be read or written.
    """
    candidate = pickle.loads(pickled)
    try:
        return replace(generate(candidate, device, ObjectCache(), elsewhere), module=None)
    except OSError:
        raise
    except Exception as error:  # whatever a routine or TVM raises
        return Generated.failure(error)


def declared_arguments(kernel: tirx.PrimFunc) -> tuple[Argument, ...]:
    """What a kernel takes, by its own account."""
    return tuple(
        (tuple(int(n) if isinstance(n, tirx.IntImm) else OPEN for n in parameter.shape), str(parameter.dtype))
        for parameter in kernel.params
    )


def _rotation(candidate: Candidate, kernel: str, weights: Sequence[Argument]) -> tirx.PrimFunc:
    """The function that calls a kernel with the next copy of its weights."""
    workload, variant = candidate.workload, candidate.variant

    def physical(tensors: Sequence[TensorType], ports: Sequence[Format]) -> list[TensorType]:
        pairs = zip(tensors, ports, strict=True)
        return [TensorType(physical_shape(tensor.shape, port.layout), port.dtype) for tensor, port in pairs]

    inputs, outputs = physical(workload.inputs, variant.inputs), physical(workload.outputs, variant.outputs)
    return rotation(kernel, inputs, [TensorType(shape, dtype) for shape, dtype in weights], outputs)


def toolchain() -> Toolchain:
    """What generates and compiles on this machine."""
    return Toolchain(
        version("apache-tvm"), version("apache-tvm-ffi"), sources_digest(), f"{sys.platform} {platform.machine()}"
    )
