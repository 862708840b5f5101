"""Compiles the C++ server, for this machine or another one."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from platformdirs import user_cache_path

from softneuro_tvm.board.runtimes import PACKAGES, TRIPLES, Runtime, runtime_for
from softneuro_tvm.errors import BuildError

SOURCES = Path(__file__).parent / "cpp"
PROGRAM = "rpc_server"
_OLDEST_GLIBC = "2.28"
"""What TVM's wheels need."""


def find_compiler(machine: str | None = None, language: str = "c++") -> list[str]:
    """A compiler for a machine, with its arguments: CXX or CC, c++ and the like, a cross gcc, or the wheel ``ziglang``.

    Args:
        machine: As `platform.machine` names it; this one by default.
        language: ``c++`` or ``c``.

    Raises:
        BuildError: there is none.
    """
    machine = machine or platform.machine()
    triple = _triple(machine)
    is_own = machine == platform.machine()
    variable, gcc, clang, short = (
        ("CXX", "g++", "clang++", "c++") if language == "c++" else ("CC", "gcc", "clang", "cc")
    )
    candidates = [[f"{triple}-{gcc}"]]
    if is_own:
        candidates = [shlex.split(os.environ.get(variable, "")), [short], [gcc], [clang], *candidates]
    for command in candidates:
        if command and shutil.which(command[0]):
            return command
    if importlib.util.find_spec("ziglang"):
        return zig_compiler(machine, language)
    raise BuildError(
        f"no {language} compiler for {machine} was found: `pip install ziglang`, or "
        f"`apt-get install {gcc}{'' if is_own else f'-{triple}'}`"
    )


def zig_compiler(machine: str | None = None, language: str = "c++") -> list[str]:
    """The compiler in the wheel ``ziglang``, for a machine: its programs run where TVM's libraries run.

    Its first use for a machine compiles its C++ library, which takes a minute or more.

    Args:
        machine: As `platform.machine` names it; this one by default.
        language: ``c++`` or ``c``.
    """
    target = f"{_triple(machine or platform.machine())}.{_OLDEST_GLIBC}"
    return [sys.executable, "-m", "ziglang", "c++" if language == "c++" else "cc", "-target", target]


def _triple(machine: str) -> str:
    return TRIPLES.get(machine, f"{machine}-linux-gnu")


def build_server(machine: str | None = None, compiler: Sequence[str] | None = None, folder: Path | None = None) -> Path:
    """Compiles the server and puts TVM's runtime libraries beside it: the folder is all that a board needs.

    What was compiled once, from the same sources in the same way, is taken from the user's cache.

    Args:
        machine: As `platform.machine` names it; this one by default.
        compiler: A C++ compiler for the machine with its arguments; what `find_compiler` finds by default.
        folder: Where it is copied to; must not exist. By default it stays in the cache.

    Returns:
        The folder; the program in it is `PROGRAM`.

    Raises:
        BuildError: no compiler, it fails, or the folder exists.
        DeviceError: no runtime for the machine can be had.
    """
    if folder is not None and folder.exists():
        raise BuildError(f"{folder} exists; give a folder that does not")
    runtime = runtime_for(machine)
    command = list(compiler) if compiler is not None else find_compiler(machine)
    kept = user_cache_path("softneuro_tvm") / "board" / f"server-{runtime.machine}-{_key(command, runtime)}"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            fresh = Path(scratch) / "server"
            fresh.mkdir()
            _compile(command, runtime, fresh)
            try:
                fresh.replace(kept)
            except OSError:
                # another process was faster
                shutil.rmtree(fresh)
    if folder is None:
        return kept
    shutil.copytree(kept, folder)
    return folder


def _compile(command: list[str], runtime: Runtime, folder: Path) -> None:
    for library in runtime.libraries:
        shutil.copy(library, folder)
    names = [f"-l{library.stem.removeprefix('lib')}" for library in runtime.libraries]
    line = [
        *command,
        "-std=c++17",
        "-O2",
        "-s",
        "-fvisibility=hidden",
        str(SOURCES / f"{PROGRAM}.cc"),
        "-o",
        str(folder / PROGRAM),
    ]
    line += [f"-I{runtime.headers}", f"-L{folder}", "-Wl,--no-as-needed", *names, "-Wl,-rpath,$ORIGIN"]
    line.append(f'-DSOFTNEURO_TVM_RUNTIME_VERSION="{version(PACKAGES[0])}"')
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"compiling the server failed: {shlex.join(line)}\n{done.stdout}{done.stderr}".rstrip())


def _key(command: list[str], runtime: Runtime) -> str:
    digest = hashlib.sha256(
        repr((command, version(PACKAGES[0]), [path.stat().st_size for path in runtime.libraries])).encode()
    )
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]
