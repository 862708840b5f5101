"""What a measured time depends on besides the routine: the machine, how it is set up, and the compiler."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from softneuro_tvm.device import Device, available_cores

_CPU = Path("/sys/devices/system/cpu")
_ISA = re.compile(r"sse|ssse|avx|fma|f16c|bmi|popcnt|amx|asimd|neon|vfp|sve|sme(?!p)|fphp|i8mm|bf16")
"""Beginnings of the feature names that generated code may use; the others change with the kernel's version."""
_LABELS = {
    "part": "processor",
    "target": "target",
    "features": "instruction sets",
    "vector_bits": "vector width",
    "l1_bytes": "L1 cache",
    "l2_bytes": "L2 cache",
    "l3_bytes": "L3 cache",
    "threads": "threads",
    "cores": "available cores",
    "smt": "simultaneous multithreading",
    "governor": "frequency governor",
    "frequency_driver": "frequency driver",
    "boost": "frequency boost",
    "virtual": "virtual machine",
    "tvm": "TVM",
    "llvm": "LLVM",
    "kernel": "kernel",
}
_HARMLESS = ("kernel", "digest")
"""Parts that say where a time comes from and do not change it."""


def fingerprint(device: Device, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What distinguishes a machine, as it is set up now, from others on which the same kernel takes another time.

    Args:
        device: The machine, with the threads that are tuned for.
        facts: What another machine says about itself, see `softneuro_tvm.remote.facts`; this one is looked at if None.

    Returns:
        Plain values for `json`; None stands for what the system does not tell. ``digest`` (12 hexadecimal digits)
        stands for all that matters for timings, hence not for the kernel's version.
    """
    said = _facts() if facts is None else facts
    found: dict[str, Any] = {
        "part": device.part,
        "target": dict(device.target),
        "features": code_features(device.features),
        "vector_bits": device.vector_lanes * 32,
        "l1_bytes": device.l1_bytes,
        "l2_bytes": device.l2_bytes,
        "l3_bytes": device.l3_bytes,
        "threads": device.threads,
        **{name: said.get(name) for name in ("cores", "smt", "governor", "frequency_driver", "boost")},
        "virtual": "hypervisor" in device.features,
        "tvm": said.get("tvm") or version("apache-tvm"),
        "llvm": _llvm_version(),
        "kernel": said.get("kernel"),
    }
    return {**found, "digest": _digest(found)}


def code_features(features: Iterable[str]) -> list[str]:
    """The instruction-set extensions that generated code may use."""
    return sorted(feature for feature in features if _ISA.match(feature))


def _facts() -> dict[str, Any]:
    """What this machine says about itself."""
    return {
        "cores": available_cores(),
        "smt": {"1": "on", "0": "off"}.get(_read("smt/active") or ""),
        "governor": _read("cpu0/cpufreq/scaling_governor"),
        "frequency_driver": _read("cpu0/cpufreq/scaling_driver"),
        "boost": _read("cpufreq/boost"),
        "tvm": version("apache-tvm"),
        "kernel": f"{platform.system()} {platform.release()}",
    }


def differences(made_on: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, most important first, for people.

    Args:
        made_on: Of the machine that the times come from.
        here: Of the machine that they are compared with.

    Returns:
        One line for each difference, e.g. ``threads: made on 2, this is 1``; none if times can be compared. A part
        that one of them lacks (another version of this package wrote it) is not compared.
    """
    found = []
    for name, label in _LABELS.items():
        if name in _HARMLESS or name not in made_on or name not in here or made_on[name] == here[name]:
            continue
        if name == "features":
            then, now = set(made_on[name]), set(here[name])
            parts = [("this lacks", then - now), ("this has also", now - then)]
            found.append(f"{label}: " + ", ".join(f"{text} {' '.join(sorted(some))}" for text, some in parts if some))
        else:
            found.append(f"{label}: made on {_text(name, made_on[name])}, this is {_text(name, here[name])}")
    return found


def summary(found: Mapping[str, Any]) -> str:
    """A fingerprint in one line, e.g. ``AMD EPYC 26/2/1, 2 thread(s), TVM 0.27.0, LLVM 22, governor performance``."""
    parts = [_text("part", found.get("part")), f"{_text('threads', found.get('threads'))} thread(s)"]
    parts += [f"{_LABELS[name]} {_text(name, found.get(name))}" for name in ("tvm", "llvm")]
    if found.get("governor"):
        parts.append(f"governor {found['governor']}")
    return ", ".join(parts)


def _text(name: str, value: Any) -> str:
    if value is None:
        return "unknown"
    if name.endswith("_bytes"):
        return f"{value >> 10} KiB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else str(value)


def _digest(found: Mapping[str, Any]) -> str:
    counted = {name: value for name, value in found.items() if name not in _HARMLESS}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:12]


def _read(name: str) -> str | None:
    """A line about the processors; None where the system does not tell, as in most virtual machines."""
    try:
        return (_CPU / name).read_text().strip()
    except OSError:
        return None


@lru_cache
def _llvm_version() -> str:
    import tvm

    return str(tvm.get_global_func("target.llvm_version_major")())
