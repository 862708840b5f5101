"""A built network as one shared library: TVM's executable, the objects of what it calls, and the weights."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from softneuro_tvm.device import architecture
from softneuro_tvm.elf import is_elf64, write_data_object
from softneuro_tvm.elf_header import machine_of
from softneuro_tvm.errors import BuildError
from softneuro_tvm.files import replacing
from softneuro_tvm.linking import linker, loadable_folder
from softneuro_tvm.quiet import quiet_constants
from softneuro_tvm.step_times import source as step_times_source
from softneuro_tvm.weights import ADDRESS_FUNCTION, Weights

_MODULES = "runtime.ModuleImportsBlobName"
"""TVM's function that names the symbol of serialised modules."""
_DATA = "_data"
"""What comes after a function's name in that of the data it tells of."""
_COPIES = 3
"""Of the weights, where a library is linked: what is linked, what some systems assemble, and the library."""
_REST_BYTES = 1 << 24
"""What else is there, roughly."""

_SOURCE = """
extern __attribute__((visibility("hidden"))) const char {data}[];
__attribute__((visibility("hidden"))) const void *{function}(void) {{ return {data}; }}

int setenv(const char *name, const char *value, int overwrite);
__attribute__((constructor)) static void set_threads(void) {{ setenv("TVM_NUM_THREADS", "{threads}", 0); }}
"""
"""C source of the function that tells where the weights are, and of the one that runs when the library is loaded.

TVM makes its thread pool when the first parallel kernel runs, with half of the cores if nobody asks for more.
"""

_INCLUDED = """
#ifdef __APPLE__
__asm__(".const_data\\n.globl _{symbol}\\n.balign 4096\\n_{symbol}:\\n.incbin " {path} "\\n.text\\n");
#else
__asm__(".section .rodata\\n.globl {symbol}\\n.balign 4096\\n{symbol}:\\n.incbin " {path} "\\n.text\\n");
#endif
"""
"""C source of data that lie in a file."""


class Library:
    """A network's library. Its file is gone as soon as it is loaded; what is mapped and open of it remains.

    Args:
        executable: What `relax.build` made of the network without kernels; it calls them by their symbols.
        objects: Contents of object files by symbol.
        weights: What the kernels read.
        threads: How many they run on, unless the environment variable TVM_NUM_THREADS says something else.
        steps: Kernel calls that it keeps count of.

    Attributes:
        module: The library as a `tvm.runtime.Module`; None if it is for another kind of machine.

    Raises:
        BuildError: no linker, or linking failed.
    """

    def __init__(
        self, executable: Any, objects: Mapping[str, bytes], weights: Weights, threads: int, steps: int
    ) -> None:
        scratch = loadable_folder(_COPIES * weights.size_bytes + _REST_BYTES)
        try:
            with tempfile.TemporaryDirectory(prefix="softneuro_tvm-", dir=scratch) as folder, quiet_constants():
                path = Path(folder) / "network.so"
                linker()(str(path), _inputs(Path(folder), executable, objects, weights, threads, steps))
                runs_here = machine_of(path) in (None, architecture({}))
                self.module = tvm.runtime.load_module(str(path)) if runs_here else None
                self._file = path.open("rb")
        except OSError as error:
            reason = error.strerror or error
            raise BuildError(f"cannot link in {scratch!r}: {reason}; free space, or point TMPDIR elsewhere") from error

    def export(self, path: Path) -> None:
        """Writes the library to a file, whole or not at all.

        Raises:
            BuildError: the file cannot be written.
        """
        self._file.seek(0)
        with replacing(path) as partial, partial.open("wb") as stream:
            shutil.copyfileobj(self._file, stream, 1 << 24)


def _inputs(
    folder: Path, executable: Any, objects: Mapping[str, bytes], weights: Weights, threads: int, steps: int
) -> list[str]:
    """Object and source files of all that is in a library."""
    like = next(iter(objects.values()), b"")
    files = [str(_written(folder / f"{index}.o", [data])) for index, data in enumerate(objects.values())]
    modules, symbol = _serialised(executable.mod, files), str(tvm.get_global_func(_MODULES)())
    source = _SOURCE.format(function=ADDRESS_FUNCTION, data=ADDRESS_FUNCTION + _DATA, threads=threads)
    source += step_times_source(steps)
    return [
        *files,
        _data_file(folder, symbol, [modules], like),
        _data_file(folder, ADDRESS_FUNCTION + _DATA, weights.pieces(), like),
        str(_written(folder / "library.c", [source.encode()])),
    ]


def _written(path: Path, pieces: Iterable[Any]) -> Path:
    with path.open("wb") as stream:
        for piece in pieces:
            stream.write(piece)
    return path


def _data_file(folder: Path, symbol: str, pieces: Iterable[Any], like: bytes) -> str:
    """An object file, or a source file, with data under a symbol; `like` is an object for the same machine."""
    if is_elf64(like):
        write_data_object(folder / f"{symbol}.o", symbol, pieces, like)
        return str(folder / f"{symbol}.o")
    path = json.dumps(str(_written(folder / f"{symbol}.bin", pieces)), ensure_ascii=False)
    source = _INCLUDED.format(symbol=symbol, path=json.dumps(path, ensure_ascii=False))
    return str(_written(folder / f"{symbol}.c", [source.encode()]))


def _serialised(module: Any, objects: list[str]) -> np.ndarray:
    """What TVM's loader wants to find in a library: its modules, of which one is the library itself."""
    imports = list(module.imports)
    module.clear_imports()
    for path in objects[:1]:
        module.import_module(tvm.runtime.load_static_library(path, []))  # stands for the library
    packed: np.ndarray = np.from_dlpack(tvm.get_global_func("runtime.ModulePackImportsToTensor")(module))
    module.clear_imports()
    for each in imports:
        module.import_module(each)
    return packed
