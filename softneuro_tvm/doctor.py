"""Checks of the machine and the installation, each with its remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from softneuro_tvm import registry
from softneuro_tvm.errors import SoftNeuroError

_CANARY = "import tvm; from tvm import relax; tvm.ir.save_json(tvm.IRModule({})); print('alive')"


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Args:
        subject: What was looked at.
        ok: True if nothing needs to be done.
        found: What was seen.
        remedy: What to do, if anything.
    """

    subject: str
    ok: bool
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Runs every check."""
    return [_ffi(), _canary(), _linker(), _cross_linkers(), _device(), _cores(), _governor(), _routines(), _store()]


def _ffi() -> Finding:
    try:
        found = f"apache-tvm {version('apache-tvm')}, apache-tvm-ffi {version('apache-tvm-ffi')}"
    except PackageNotFoundError as error:
        return Finding("TVM", False, str(error), "pip install 'apache-tvm>=0.27,<0.28' 'apache-tvm-ffi<0.1.15'")
    parts = [int(part) for part in version("apache-tvm-ffi").split(".")[:3] if part.isdigit()]
    good = version("apache-tvm").startswith("0.27") and parts < [0, 1, 15]
    remedy = "" if good else "apache-tvm-ffi 0.1.15 segfaults in save_json: pip install 'apache-tvm-ffi<0.1.15'"
    return Finding("TVM", good, found, remedy)


def _canary() -> Finding:
    """Calls in a process of its own what crashes with a bad pair of versions."""
    done = subprocess.run([sys.executable, "-c", _CANARY], capture_output=True, text=True, check=False)
    good = done.returncode == 0 and "alive" in done.stdout
    found = "works" if good else f"ended with code {done.returncode}"
    return Finding("TVM save_json", good, found, "" if good else "pip install 'apache-tvm-ffi>=0.1.14.post0,<0.1.15'")


def _linker() -> Finding:
    from softneuro_tvm.linking import linker, linker_command

    try:
        linker()
        return Finding("C compiler", True, " ".join(linker_command()))
    except SoftNeuroError as error:
        return Finding("C compiler", False, "none", str(error))


def _cross_linkers() -> Finding:
    from softneuro_tvm.device import architecture
    from softneuro_tvm.linking import linker_command

    others = [machine for machine in ("aarch64", "x86_64") if machine != architecture({})]
    found = [f"{machine}: {' '.join(linker_command(machine))}" for machine in others if linker_command(machine)]
    remedy = "" if found else "to build for other machines: `pip install 'softneuro_tvm[cross]'`"
    return Finding("cross compiler", True, "; ".join(found) or "none", remedy)


def _device() -> Finding:
    from softneuro_tvm.device import host_device

    device = host_device()
    caches = f"L1 {device.l1_bytes >> 10} KiB, L2 {device.l2_bytes >> 10} KiB, L3 {device.l3_bytes >> 20} MiB"
    fast = device.vector_lanes >= 8 or device.fma
    return Finding(
        "processor", True, f"{device.description}; {caches}", "" if fast else "no AVX2: expect plain vectors"
    )


def _cores() -> Finding:
    from softneuro_tvm.device import available_cores

    cores, load = available_cores(), os.getloadavg()[0]
    quiet = load < 0.5 * cores
    remedy = "" if quiet else "other work is running: measurements will be noisy, wait for it to end"
    return Finding("load", True, f"{load:.1f} on {cores} core(s)", remedy)


def _governor() -> Finding:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return governor_finding(path.read_text().strip() if path.exists() else "not visible")


def governor_finding(governor: str) -> Finding:
    """Judges a frequency governor."""
    slow = governor in ("powersave", "ondemand", "conservative")
    return Finding(
        "governor", True, governor, "`cpupower frequency-set -g performance` measures steadier" if slow else ""
    )


def _routines() -> Finding:
    errors = registry.import_errors()
    found = f"{len(registry.routines())} routines for {len(registry.layer_kinds())} layer kinds"
    return Finding("routines", not errors, found, "; ".join(map(str, errors)))


def _store() -> Finding:
    from softneuro_tvm.profiler.store import ProfileStore, default_path

    try:
        with ProfileStore() as store:
            return Finding("profile store", True, f"{default_path()}: {sum(1 for _ in store.records())} records")
    except SoftNeuroError as error:
        return Finding("profile store", False, str(default_path()), str(error))
