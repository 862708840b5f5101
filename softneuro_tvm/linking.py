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

from softneuro_tvm.errors import BuildError


def _commands() -> list[list[str]]:
    """C compilers that can link a shared library, most wanted first."""
    named = shlex.split(os.environ.get("CC", ""))
    found = [named] if named else []
    found += [[name] for name in ("cc", "gcc", "clang")]
    if importlib.util.find_spec("ziglang"):
        # without -nostdlib its first use builds a C library for most of a minute
        found.append([sys.executable, "-m", "ziglang", "cc", "-nostdlib"])
    return found


def linker_command() -> list[str]:
    """The C compiler that links, with its arguments; empty if there is none."""
    return next((command for command in _commands() if shutil.which(command[0])), [])


def linker() -> Callable[..., None]:
    """Finds what links shared libraries: ``CC``, cc, gcc, clang, or the wheel ``ziglang``.

    Returns:
        A function of the library to write and its inputs: objects or assembly. It serves TVM's `export_library` as
        `fcompile`, too.

    Raises:
        BuildError: there is none.
    """
    command = linker_command()
    if not command:
        raise BuildError(
            "no C compiler was found, and linking needs one: `pip install ziglang` or `apt-get install gcc`, "
            "or name one in the environment variable CC"
        )

    def link(output: str, objects: Sequence[str], options: Sequence[str] | None = None) -> None:
        line = [*command, "-shared", "-fPIC", "-o", str(output), *objects, *(options or ())]
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
