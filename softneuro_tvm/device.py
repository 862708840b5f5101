"""The hardware that routines are written for: target, vector unit, caches, threads."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from softneuro_tvm.errors import DeviceError

HOST = "host"
"""Name of this machine."""
_HARDWARE = ("vector_lanes", "vector_registers", "fma", "l1_bytes", "l2_bytes", "l3_bytes")
_FLOAT16 = frozenset({"asimdhp", "avx512_fp16"})
"""Features of vector units that compute in float16."""


@dataclass(frozen=True)
class Device:
    """One device.

    Args:
        name: For people and file names, e.g. ``host``.
        target: TVM target as a dictionary, e.g. ``{"kind": "llvm", "mcpu": "znver5"}``.
        part: The processor's marketing name; part of a measurement's key.
        threads: Threads that a module is tuned for and runs with.
        vector_lanes: float32 lanes of a vector register (16 AVX-512, 8 AVX2, 4 SSE or NEON).
        vector_registers: Architectural vector registers.
        fma: True if a fused multiply-add of vectors exists.
        l1_bytes: Data cache of one core.
        l2_bytes: Second-level cache of one core.
        l3_bytes: Last-level cache.
        features: Instruction-set extensions, e.g. ``avx2``.
        element: Type that is computed in; see `computing_in`.
    """

    name: str
    target: Mapping[str, Any] = field(hash=False)
    part: str = "unknown"
    threads: int = 1
    vector_lanes: int = 4
    vector_registers: int = 16
    fma: bool = False
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    l3_bytes: int = 8 << 20
    features: frozenset[str] = frozenset()
    element: str = "float32"

    @property
    def has_float16(self) -> bool:
        """Whether vectors can be computed in float16."""
        return bool(_FLOAT16 & self.features)

    def computing_in(self, element: str) -> Device:
        """The device as a kernel sees it whose elements are float16 instead of float32.

        It has twice as many of them in a vector and in each cache: cache sizes remain those of elements of four bytes.
        """
        if element == self.element:
            return self
        return replace(
            self,
            vector_lanes=2 * self.vector_lanes,
            l1_bytes=2 * self.l1_bytes,
            l2_bytes=2 * self.l2_bytes,
            l3_bytes=2 * self.l3_bytes,
            element=element,
        )

    def with_threads(self, threads: int) -> Device:
        """The same device, tuned for another number of threads."""
        return replace(self, threads=threads)

    @property
    def machine(self) -> str:
        """The kind of processor that code is generated for, e.g. ``aarch64``."""
        return architecture(self.target)

    @property
    def runs_here(self) -> bool:
        """Whether this machine can run code that is generated for the device, as far as the kind of processor goes."""
        return self.machine == architecture({})

    @property
    def description(self) -> str:
        """One line for tables."""
        unit = f"{self.vector_lanes * 32}-bit vectors{', FMA' if self.fma else ''}"
        return f"{self.part} ({self.target.get('mcpu', self.target['kind'])}, {unit}), {self.threads} thread(s)"


_ALIASES = {"arm64": "aarch64", "amd64": "x86_64", "armv7l": "arm", "armv7a": "arm", "armv8l": "arm"}


def architecture(target: Mapping[str, Any]) -> str:
    """The kind of processor that a TVM target is for, as `platform.machine` names it; this machine's by default."""
    name = str(target.get("mtriple") or platform.machine()).partition("-")[0].lower()
    return _ALIASES.get(name, name)


def to_json(device: Device) -> dict[str, Any]:
    """What of a device goes into plans and manifests: enough to generate code for it elsewhere."""
    common = {"name": device.name, "target": dict(device.target), "part": device.part, "threads": device.threads}
    if device.name == HOST:
        return common
    hardware = {name: getattr(device, name) for name in _HARDWARE}
    return {**common, **hardware, "features": sorted(device.features)}


def from_json(data: Mapping[str, Any]) -> Device:
    """Inverse of `to_json`; this machine, probed, where the data are this machine's.

    Raises:
        DeviceError: the data were made on another machine, and for that one, or are incomplete.
    """
    if data["name"] == HOST:
        device = host_device(int(data["threads"]))
        if dict(device.target) != dict(data["target"]):
            raise DeviceError(f"made for {dict(data['target'])}, this machine is {dict(device.target)}")
        return replace(device, part=str(data["part"]))
    if missing := {"features", *_HARDWARE} - set(data):
        raise DeviceError(f"made for {data['name']}, and does not say its {', '.join(sorted(missing))}")
    values = {name: data[name] for name in ("name", "part", "threads", *_HARDWARE)}
    return Device(target=MappingProxyType(dict(data["target"])), features=frozenset(data["features"]), **values)


def vector_unit(features: frozenset[str], machine: str) -> tuple[int, int, bool]:
    """float32 lanes, number of vector registers, and whether there is a fused multiply-add."""
    if machine in ("aarch64", "arm64"):
        return 4, 32, True
    if "avx512f" in features:
        return 16, 32, True
    if "avx2" in features and "fma" in features:
        return 8, 16, True
    return (8, 16, False) if "avx" in features else (4, 16, False)


def _cache_bytes(level: int, default: int) -> int:
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, depth = (index / "type").read_text().strip(), int((index / "level").read_text())
            size = re.fullmatch(r"(\d+)([KM])", (index / "size").read_text().strip())
        except (OSError, ValueError):
            continue
        if depth == level and kind != "Instruction" and size:
            return int(size[1]) << (10 if size[2] == "K" else 20)
    return default


@lru_cache
def _cpu_info() -> tuple[str, frozenset[str]]:
    """Marketing name and feature flags of the first processor."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    entries = dict(re.findall(r"^(.*?)\s*:\s*(.*)$", text.split("\n\n")[0], re.MULTILINE))
    part = entries.get("model name") or entries.get("CPU part") or platform.machine()
    numbers = "/".join(entries[key] for key in ("cpu family", "model", "stepping") if key in entries)
    flags = entries.get("flags") or entries.get("Features") or ""
    return f"{part} {numbers}".strip(), frozenset(flags.split())


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_local(device: Device) -> None:
    """Makes sure that code for a device runs on this machine.

    Raises:
        DeviceError: it does not, or not all of it.
    """
    _, known = _cpu_info()
    if not device.runs_here:
        raise DeviceError(
            f"{device.name} is {device.machine}, this machine is {architecture({})}: measure on a board, with "
            "--rpc-tracker HOST:PORT --rpc-key KEY or --rpc-server HOST:PORT"
        )
    if device.name != HOST and known and (lacking := sorted(device.features - known)):
        raise DeviceError(f"this machine lacks {', '.join(lacking)}, which code for {device.name} uses; use a board")


def runs_elsewhere(name: str, machine: str) -> str:
    """Says what to do with a module that does not run here.

    Args:
        name: The module's.
        machine: The kind of processor that it was built for.
    """
    return (
        f"{name} was built for {machine}, this machine is {architecture({})}; run it there, or on a board from here: "
        "`softneuro-tvm run LIBRARY --rpc-tracker HOST:PORT --rpc-key KEY`"
    )


def host_device(threads: int | None = None) -> Device:
    """The machine this runs on, probed.

    Args:
        threads: Threads to tune for; all available cores by default.
    """
    import tvm

    part, features = _cpu_info()
    machine = platform.machine()
    lanes, registers, fma = vector_unit(features, machine)
    return Device(
        name=HOST,
        target=MappingProxyType({"kind": "llvm", "mcpu": str(tvm.get_global_func("target.llvm_get_system_cpu")())}),
        part=part,
        threads=threads or available_cores(),
        vector_lanes=lanes,
        vector_registers=registers,
        fma=fma,
        l1_bytes=_cache_bytes(1, 32 << 10),
        l2_bytes=_cache_bytes(2, 512 << 10),
        l3_bytes=_cache_bytes(3, 8 << 20),
        features=features,
    )
