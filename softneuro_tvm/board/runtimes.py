"""TVM's runtime for this machine, as it is installed, and for another one, out of wheels."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from platformdirs import user_cache_path

from softneuro_tvm.errors import DeviceError

TRIPLES = {"aarch64": "aarch64-linux-gnu", "x86_64": "x86_64-linux-gnu"}
"""Machines, as `platform.machine` names them, for which there are wheels."""

LIBRARIES = ("tvm_ffi/lib/libtvm_ffi.so", "tvm/lib/libtvm_runtime.so", "tvm/lib/libtvm_runtime_extra.so")
HEADERS = "tvm_ffi/include/"
PACKAGES = ("apache-tvm", "apache-tvm-ffi")

_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014")


@dataclass(frozen=True)
class Runtime:
    """TVM's runtime for one machine.

    Args:
        machine: As `platform.machine` names it.
        site: Folder in which the packages tvm and tvm_ffi lie, or those of their files that are needed.
    """

    machine: str
    site: Path

    @property
    def libraries(self) -> tuple[Path, ...]:
        """What a server needs beside it."""
        return tuple(self.site / name for name in LIBRARIES)

    @property
    def headers(self) -> Path:
        """What a compiler needs to see."""
        return self.site / HEADERS


def runtime_for(machine: str | None = None) -> Runtime:
    """TVM's runtime for a machine: the installed one, or one that is downloaded once and kept in the user's cache.

    Args:
        machine: As `platform.machine` names it; this one by default.

    Raises:
        DeviceError: TVM is not installed, there are no wheels for the machine, or they cannot be downloaded.
    """
    if machine is None or machine == platform.machine():
        return _installed()
    if machine not in TRIPLES:
        raise DeviceError(f"TVM has no wheels for {machine!r}; there are some for {', '.join(TRIPLES)}")
    site = downloaded_site(machine)
    if not site.exists():
        _download(machine, site)
    return Runtime(machine, site)


def downloaded_site(machine: str) -> Path:
    """Where the runtime for another machine lies once it has been downloaded."""
    versions = "-".join(version(package) for package in PACKAGES)
    return user_cache_path("softneuro_tvm") / "board" / f"tvm-{machine}-{versions}"


def _installed() -> Runtime:
    spec = importlib.util.find_spec("tvm")
    if spec is None or spec.origin is None:
        raise DeviceError("TVM is not installed; `pip install softneuro_tvm` installs it")
    runtime = Runtime(platform.machine(), Path(spec.origin).parents[1])
    missing = [path for path in (*runtime.libraries, runtime.headers) if not path.exists()]
    if missing:
        raise DeviceError(f"TVM is not installed from its wheels: {missing[0]} is missing; `pip install apache-tvm`")
    return runtime


def _download(machine: str, site: Path) -> None:
    """Takes what is needed out of a machine's wheels, of the versions that are installed here."""
    site.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=site.parent) as scratch:
        wheels, files = Path(scratch) / "wheels", Path(scratch) / "site"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--implementation=cp", "--dest", str(wheels)]
        command += [f"--python-version={sys.version_info.major}.{sys.version_info.minor}"]
        command += [f"--platform={name}_{machine}" for name in _PLATFORMS]
        command += [f"{package}=={version(package)}" for package in PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DeviceError(
                f"TVM's wheels for {machine} cannot be downloaded; is there a network, and pip?\n{done.stderr.strip()}"
            )
        for wheel in wheels.iterdir():
            with zipfile.ZipFile(wheel) as archive:
                wanted = [name for name in archive.namelist() if name in LIBRARIES or name.startswith(HEADERS)]
                archive.extractall(files, wanted)
        missing = [name for name in LIBRARIES if not (files / name).is_file()]
        if missing:
            raise DeviceError(f"TVM's wheels for {machine} lack {', '.join(missing)}")
        try:
            files.replace(site)
        except OSError:
            # another process was faster
            shutil.rmtree(files)
