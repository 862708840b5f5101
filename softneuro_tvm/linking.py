"""From object files to a shared library, and where such a library may lie to be loaded."""

from __future__ import annotations

import errno
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_dir

from softneuro_tvm.device import architecture
from softneuro_tvm.elf_header import machine_of
from softneuro_tvm.errors import BuildError

CROSS_COMPILER_VARIABLE = "SOFTNEURO_TVM_CROSS_CC"
"""Environment variable that names the C compiler for processors of another kind than this machine's."""

_TRIPLES = {
    "x86_64": "x86_64-linux-gnu",
    "aarch64": "aarch64-linux-gnu",
    "arm": "arm-linux-gnueabihf",
    "riscv64": "riscv64-linux-gnu",
}
"""Systems for which a library can be linked elsewhere: what Debian and Zig call them, by processor."""


def _commands(machine: str | None = None) -> list[list[str]]:
    """C compilers that can link a shared library, most wanted first; `machine` is one of another kind than this."""
    named = shlex.split(os.environ.get(CROSS_COMPILER_VARIABLE if machine else "CC", ""))
    found = [named] if named else []
    triple = _TRIPLES.get(machine or "")
    found += [[f"{triple}-gcc"]] if triple else [] if machine else [["cc"], ["gcc"], ["clang"]]
    if importlib.util.find_spec("ziglang") and (triple or not machine):
        # without -nostdlib its first use builds a C library for most of a minute
        zig = [sys.executable, "-m", "ziglang", "cc", "-nostdlib"]
        found.append([*zig, "-target", triple] if triple else zig)
    return found


def linker_command(machine: str | None = None) -> list[str]:
    """The C compiler that links, with its arguments; empty if there is none.

    Args:
        machine: The kind of processor, e.g. ``aarch64``; this machine's by default.
    """
    other = machine if machine != architecture({}) else None
    return next((command for command in _commands(other) if shutil.which(command[0])), [])


def _required(machine: str | None) -> list[str]:
    command = linker_command(machine)
    if not command and machine not in (None, architecture({})):
        debian = f"`apt-get install gcc-{_TRIPLES[machine]}`, " if machine in _TRIPLES else ""
        raise BuildError(
            f"no C compiler that links for {machine} was found: {debian}`pip install ziglang`, or name one with "
            f"--cross-compiler or in the environment variable {CROSS_COMPILER_VARIABLE}"
        )
    if not command:
        raise BuildError(
            "no C compiler was found, and linking needs one: `pip install ziglang` or `apt-get install gcc`, "
            "or name one in the environment variable CC"
        )
    return command


def linker(machine: str | None = None) -> Callable[..., None]:
    """Finds what links shared libraries: ``CC``, cc, gcc, clang, or the wheel ``ziglang``.

    For another kind of processor: ``SOFTNEURO_TVM_CROSS_CC``, Debian's cross compiler, or ``ziglang``.

    Args:
        machine: The kind of processor, e.g. ``aarch64``; this machine's by default.

    Returns:
        A function of the library to write and its inputs: objects, assembly or C. It serves TVM's `export_library` as
        `fcompile`, too. What the first object is for decides which compiler is used, whatever `machine` is.

    Raises:
        BuildError: there is none.
    """
    _required(machine)

    def link(output: str, objects: Sequence[str], options: Sequence[str] | None = None) -> None:
        found = next(filter(None, (machine_of(path) for path in objects if str(path).endswith(".o"))), None)
        line = [*_required(found or machine), "-shared", "-fPIC", "-o", str(output), *objects, *(options or ())]
        if found:  # ELF; a build ID would be a hash of all weights
            line.append("-Wl,--build-id=none")
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if "No space left" in done.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output))
        if done.returncode:
            raise BuildError(f"linking {output} failed: {shlex.join(line)}\n{done.stdout}{done.stderr}".rstrip())

    def triple() -> str:
        import tvm

        return str(tvm.get_global_func("tvm.codegen.llvm.GetDefaultTargetTriple")())

    link.output_format = "so"  # type: ignore[attr-defined]
    link.get_target_triple = triple  # type: ignore[attr-defined]
    return link


def loadable_folder(room_bytes: int = 0) -> str:
    """A folder for temporary files from which libraries may be loaded, in memory if possible.

    Args:
        room_bytes: What should be free there.

    Raises:
        BuildError: there is none.
    """
    cache = Path(user_cache_dir("softneuro_tvm"))
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    usable = []
    for folder in ("/dev/shm", tempfile.gettempdir(), str(cache)):
        if os.access(folder, os.W_OK) and not os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
            usable.append(folder)
    if not usable:
        raise BuildError("no temporary folder allows programs to be run; point TMPDIR at one that does")
    return next((folder for folder in usable if shutil.disk_usage(folder).free >= room_bytes), usable[0])
