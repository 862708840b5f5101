"""What the board says about itself: what a tuner must know before it trusts measured times. Needs no TVM."""

from __future__ import annotations

import platform
import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from softneuro_tvm.device import available_cores

FUNCTION = "softneuro.system_info"
"""Under which servers offer it to clients, as JSON text."""

_CPU = Path("/sys/devices/system/cpu")


def system_info() -> dict[str, Any]:
    """Everything that the system tells; what it does not tell is left out.

    Returns:
        ``machine``, ``kernel``, ``features``, ``cores``, ``memory_free_bytes``, ``time_s``, ``tvm``, ``part``,
        ``l1_bytes``, ``l2_bytes``, ``l3_bytes``, ``smt``, ``governor``, ``frequency_driver``, ``boost``,
        ``frequency_hz``, ``temperature_c``.
    """
    entries = dict(re.findall(r"^(.*?)\s*:\s*(.*)$", _read(Path("/proc/cpuinfo")).split("\n\n")[0], re.MULTILINE))
    info: dict[str, Any] = {
        "machine": platform.machine(),
        "kernel": f"{platform.system()} {platform.release()}",
        "features": (entries.get("flags") or entries.get("Features") or "").split(),
        "cores": available_cores(),
        "memory_free_bytes": _free_memory_bytes(),
        "time_s": time.time(),
        "tvm": version("apache-tvm"),
    }
    part = entries.get("model name") or entries.get("CPU part")
    if part and (platform.machine() != "aarch64" or "CPU part" in entries):
        # otherwise an emulator shows the files of the machine that it runs on, about another processor
        numbers = "/".join(entries[key] for key in ("cpu family", "model", "stepping") if key in entries)
        info |= {"part": f"{part} {numbers}".strip(), **_caches(), **_settings()}
    return {name: value for name, value in info.items() if value not in (None, "", 0)}


def _read(path: Path) -> str:
    """A file's text; nothing where the system does not tell."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _free_memory_bytes() -> int:
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _read(Path("/proc/meminfo")), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _caches() -> dict[str, int]:
    """Sizes of the first core's caches for data."""
    sizes: dict[str, int] = {}
    for index in sorted((_CPU / "cpu0" / "cache").glob("index*")):
        size = re.fullmatch(r"(\d+)([KM])", _read(index / "size"))
        if size and _read(index / "type") != "Instruction":
            sizes.setdefault(f"l{_read(index / 'level')}_bytes", int(size[1]) << (10 if size[2] == "K" else 20))
    return sizes


def _settings() -> dict[str, Any]:
    frequency, zone = _CPU / "cpu0" / "cpufreq", Path("/sys/class/thermal/thermal_zone0/temp")
    return {
        "smt": {"1": "on", "0": "off"}.get(_read(_CPU / "smt" / "active")),
        "governor": _read(frequency / "scaling_governor"),
        "frequency_driver": _read(frequency / "scaling_driver"),
        "boost": _read(_CPU / "cpufreq" / "boost"),
        "frequency_hz": 1000 * int(_read(frequency / "scaling_cur_freq") or 0),
        "temperature_c": int(_read(zone) or 0) / 1000,
    }
