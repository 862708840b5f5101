"""A built network as TVM's executable and the objects of what it calls: loaded at once, or written to a library."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi

from softneuro_tvm.elf import is_elf64, write_data_object
from softneuro_tvm.files import replacing
from softneuro_tvm.linking import linker, loadable_folder
from softneuro_tvm.quiet import quiet_constants


class Library:
    """What `relax.build` made of a network without kernels, and the kernels' objects.

    Args:
        executable: TVM's executable; it calls kernels by their symbols.
        objects: Contents of object files by symbol.
    """

    def __init__(self, executable: Any, objects: Mapping[str, bytes]) -> None:
        self.executable, self._module, self._objects = executable, executable.mod, objects

    def load(self) -> Any:
        """Links the kernels into a library that vanishes as soon as it is loaded.

        Returns:
            The `tvm.runtime.Module` that runs.

        Raises:
            BuildError: no linker, or linking failed.
        """
        if self._objects:
            with tempfile.TemporaryDirectory(prefix="softneuro_tvm-", dir=loadable_folder()) as folder:
                library = Path(folder) / "kernels.so"
                linker()(str(library), self._write_objects(Path(folder)))
                self._module.import_module(tvm_ffi.load_module(library, keep_module_alive=False))
        return self._module

    def export(self, path: Path) -> None:
        """Writes a shared library that holds everything, whole or not at all.

        Raises:
            BuildError: no linker, or the file cannot be written.
        """
        link = linker()
        with (
            replacing(path) as partial,
            tempfile.TemporaryDirectory(prefix=".softneuro_tvm-", dir=path.parent) as folder,
        ):
            objects = self._write_objects(Path(folder))
            modules = Path(folder) / "modules.o"
            with self._placeholder(objects), quiet_constants():
                self._write_modules(modules)
            link(str(partial), [*objects, str(modules)])

    def _write_modules(self, path: Path) -> None:
        """Writes an object with TVM's serialised modules, weights among them."""
        like = next(iter(self._objects.values()), b"")
        if is_elf64(like):
            symbol = str(tvm.get_global_func("runtime.ModuleImportsBlobName")())
            serialised = tvm.get_global_func("runtime.ModulePackImportsToTensor")(self._module)
            write_data_object(path, symbol, np.from_dlpack(serialised), like)
        else:
            pack = tvm.get_global_func("runtime.ModulePackImportsToLLVM")
            pack(self._module, False, json.dumps({"kind": "llvm"}), "").write_to_file(str(path))

    def _write_objects(self, folder: Path) -> list[str]:
        paths = []
        for index, data in enumerate(self._objects.values()):
            paths.append(str(folder / f"{index}.o"))
            Path(paths[-1]).write_bytes(data)
        return paths

    @contextmanager
    def _placeholder(self, objects: Sequence[str]) -> Iterator[None]:
        """Meanwhile the executable imports an object, which stands for the library that is going to hold it."""
        imports = list(self._module.imports)
        self._module.clear_imports()
        for path in objects[:1]:
            self._module.import_module(tvm.runtime.load_static_library(path, []))
        try:
            yield
        finally:
            self._module.clear_imports()
            for module in imports:
                self._module.import_module(module)
