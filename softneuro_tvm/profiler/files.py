"""Names of the files through which the profiler's tasks hand arrays to one another. Needs no TVM."""

from __future__ import annotations

from pathlib import Path

from softneuro_tvm.formats import Format


def input_file(folder: str, position: int, read_as: Format) -> str:
    """Where the sample of an input in a format lies."""
    return str(Path(folder) / f"x{position}-{read_as.layout or 'scalar'}-{read_as.dtype}.npy")


def reference_file(folder: str, position: int) -> str:
    """Where the reference of an output lies."""
    return str(Path(folder) / f"y{position}.npy")


def weight_file(folder: str, name: str) -> str:
    """Where the sample of a weight lies, in its canonical layout."""
    return str(Path(folder) / f"w-{name}.npy")
