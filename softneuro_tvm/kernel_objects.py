"""Object files of kernels: taken from the cache, or compiled and put there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tvm_ffi
from tvm import tirx

from softneuro_tvm import codegen
from softneuro_tvm.device import available_cores
from softneuro_tvm.object_cache import ObjectCache


def with_symbol(function: tirx.PrimFunc, name: str) -> tirx.PrimFunc:
    """The function under a symbol of its own: a name and what stands for its contents.

    Args:
        function: What a routine emitted.
        name: For people, e.g. ``conv2d/winograd``.
    """
    return codegen.rename(function, f"{name.replace('/', '_')}_{tvm_ffi.structural_hash(function):016x}")


def symbol(function: tirx.PrimFunc) -> str:
    """The function's global symbol."""
    return str(function.attrs["global_symbol"])


def object_file(function: tirx.PrimFunc, target: Mapping[str, Any], cache: ObjectCache) -> bytes:
    """The contents of a kernel's object file.

    Args:
        function: The kernel, under its symbol.
        target: TVM target.
        cache: Where it is looked for, and kept.
    """
    return keyed_object(function, target, cache)[1]


def keyed_object(function: tirx.PrimFunc, target: Mapping[str, Any], cache: ObjectCache) -> tuple[str, bytes]:
    """The key of a kernel in the object cache, and the contents of its object file.

    Args:
        function: As in `object_file`.
        target: TVM target.
        cache: As in `object_file`.
    """
    key = _key(function, target)
    found = cache.get(key)
    if found is None:
        found = codegen.compile_object(function, target)
        cache.put(key, found)
    return key, found


def object_files(
    functions: Mapping[str, tirx.PrimFunc], target: Mapping[str, Any], cache: ObjectCache
) -> dict[str, bytes]:
    """The contents of several kernels' object files, compiled on all cores where they are not known.

    Args:
        functions: Kernels by symbol.
        target: TVM target.
        cache: As in `object_file`.
    """
    with ThreadPoolExecutor(available_cores()) as pool:  # compiling releases the interpreter's lock
        objects = pool.map(lambda function: object_file(function, target, cache), functions.values())
        return dict(zip(functions, objects, strict=True))


def _key(function: tirx.PrimFunc, target: Mapping[str, Any]) -> str:
    """Stands for everything that an object depends on."""
    parts = (_generator(), json.dumps(dict(target), sort_keys=True), symbol(function))
    text = json.dumps([*parts, f"{tvm_ffi.structural_hash(function):016x}"])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@lru_cache
def _generator() -> str:
    """Stands for the code generator: this package's part of it, and TVM's."""
    source = hashlib.sha256(Path(codegen.__file__).read_bytes()).hexdigest()
    return f"{source} {version('apache-tvm')} {version('apache-tvm-ffi')}"
