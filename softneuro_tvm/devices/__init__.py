"""Devices by name: a TOML file each, here or the user's; also targets as TVM writes them, and this machine.

A file holds the fields of `Device` (``part``, ``vector_lanes``, ``vector_registers``, ``fma``, ``l1_bytes``,
``l2_bytes``, ``l3_bytes``, ``features``), ``description``, ``cores``, and the table ``target``: a TVM target.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from softneuro_tvm.device import HOST, Device, architecture, host_device, vector_unit
from softneuro_tvm.errors import DeviceError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TYPES = {
    "description": str,
    "part": str,
    "cores": int,
    "vector_lanes": int,
    "vector_registers": int,
    "fma": bool,
    "l1_bytes": int,
    "l2_bytes": int,
    "l3_bytes": int,
    "features": list,
    "target": dict,
}
_HARDWARE = ("part", "vector_lanes", "vector_registers", "fma", "l1_bytes", "l2_bytes", "l3_bytes")
_FEATURES = {
    "x86_64": {name: name for name in ("avx", "avx2", "avx512f", "fma")} | {"avx512_fp16": "avx512fp16"},
    "aarch64": {"asimdhp": "fullfp16"},
}
"""Features by kind of processor: names that Linux gives them, and LLVM's."""
_NOT_CODE = ("feature.", "keys", "tag", "host", "num-cores", "model", "device")
"""Beginnings of the names of a target's attributes that say nothing about code."""


@dataclass(frozen=True)
class DeviceFile:
    """What a device file says.

    Args:
        name: The file's, without suffix.
        description: One line for people.
        cores: How many a board has.
        device: The device, tuned for all of them.
    """

    name: str
    description: str
    cores: int
    device: Device


def known_devices() -> dict[str, DeviceFile]:
    """The devices that this package describes, by name."""
    return {path.stem: read_device(path) for path in sorted(Path(__file__).parent.glob("*.toml"))}


def read_device(path: Path) -> DeviceFile:
    """Reads a device file.

    Raises:
        DeviceError: it cannot be read, or says nonsense.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DeviceError(f"device file {path}: {error}") from error
    for name, value in data.items():
        if name not in _TYPES:
            raise DeviceError(f"device file {path}: {name!r} is unknown; it may hold {', '.join(_TYPES)}")
        if type(value) is not _TYPES[name]:
            raise DeviceError(f"device file {path}: {name!r} must be of type {_TYPES[name].__name__}, not {value!r}")
    target = data.get("target", {})
    if "kind" not in target:
        raise DeviceError(f"device file {path}: the table [target] with a `kind` is missing; write a TVM target there")
    hardware = {name: data[name] for name in _HARDWARE if name in data}
    device = Device(
        name=path.stem,
        target=MappingProxyType(target),
        threads=data.get("cores", 1),
        features=frozenset(data.get("features", ())),
        **{"part": path.stem, **hardware},
    )
    return DeviceFile(path.stem, data.get("description", ""), data.get("cores", 1), device)


def load_device(wanted: str = HOST, threads: int | None = None) -> Device:
    """The device that a text names.

    Args:
        wanted: ``host``; a name of `known_devices`; the path of a device file (``.toml``); a TVM target as JSON; or one
            of TVM's target tags, e.g. ``raspberry-pi/4b-aarch64``.
        threads: Threads to tune for; all cores by default, where their number is known.

    Raises:
        DeviceError: there is no such device.
    """
    if wanted == HOST:
        return host_device(threads)
    if wanted.endswith(".toml"):
        found = read_device(Path(wanted)).device
    elif wanted.lstrip().startswith("{"):
        try:
            target = json.loads(wanted)
        except ValueError as error:
            raise DeviceError(f"target {wanted!r} is no JSON: {error}") from error
        found = _of_target(target, wanted)
    elif (described := known_devices()).get(wanted):
        found = described[wanted].device
    elif "/" in wanted:
        found = _of_target(wanted, wanted)
    else:
        close = difflib.get_close_matches(wanted, [HOST, *described], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise DeviceError(
            f"there is no device {wanted!r}{hint}; there are {', '.join([HOST, *described])}; a path of a .toml file, "
            "a TVM target as JSON, and TVM's target tags (raspberry-pi/4b-aarch64) work, too"
        )
    return found.with_threads(threads or found.threads)


def _of_target(target: str | Mapping[str, Any], name: str) -> Device:
    """The device of a TVM target: vector unit from LLVM, cache sizes as they commonly are.

    Raises:
        DeviceError: TVM does not know it, or it is not for LLVM.
    """
    import tvm

    try:
        parsed = tvm.target.Target(target)
        attributes = json.loads(str(parsed))
    except Exception as error:  # TVM raises many types
        reason = (str(error).strip().splitlines() or [repr(error)])[-1]
        raise DeviceError(f"TVM does not know the target {name!r}: {reason}; see `softneuro-tvm devices`") from error
    if attributes["kind"] != "llvm":
        raise DeviceError(f"target {name!r} is of kind {attributes['kind']!r}; only llvm is supported")
    plain = {key: value for key, value in attributes.items() if not key.startswith(_NOT_CODE)}
    has = tvm.get_global_func("target.target_has_feature")
    machine = architecture(plain)
    features = frozenset(name for name, llvm in _FEATURES.get(machine, {}).items() if has(llvm, parsed))
    lanes, registers, fma = vector_unit(features, machine)
    return Device(
        name=str(plain.get("mcpu") or machine),
        target=MappingProxyType(plain),
        part=str(attributes.get("model") or plain.get("mcpu") or machine),
        threads=int(attributes.get("num-cores", 1)),
        vector_lanes=lanes,
        vector_registers=registers,
        fma=fma,
        features=features,
    )
