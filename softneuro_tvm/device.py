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

    def with_threads(self, threads: int) -> Device:
        """The same device, tuned for another number of threads."""
        return replace(self, threads=threads)

    @property
    def description(self) -> str:
        """One line for tables."""
        unit = f"{self.vector_lanes * 32}-bit vectors{', FMA' if self.fma else ''}"
        return f"{self.part} ({self.target.get('mcpu', self.target['kind'])}, {unit}), {self.threads} thread(s)"


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
        name="host",
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
