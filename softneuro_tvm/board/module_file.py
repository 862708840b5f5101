"""Looks at an uploaded library before it is loaded: a damaged one kills the process, a foreign one fails obscurely."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

_HEADER = struct.Struct("<4sBB10xHHI")
"""Magic, class, byte order; type, machine, version."""


def check_name(name: str) -> None:
    """Refuses names of files outside a session's work folder.

    Raises:
        ValueError: it is one.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(
            f"file name {name!r} refused: files live in the session's work folder, give a name without folders"
        )


def check_library(path: Path) -> None:
    """Refuses what cannot be loaded here.

    Raises:
        ValueError: it is no shared library, was cut off, or was built for another processor.
    """
    if path.suffix != ".so":
        raise ValueError(
            f"{path.name!r} cannot be loaded: nothing is linked here, export a shared library whose name ends in .so"
        )
    if not path.is_file():
        raise ValueError(f"{path.name!r} was not uploaded in this session")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
    if len(start) < 64 or start[:4] != b"\x7fELF":
        raise ValueError(f"{path.name!r} is no ELF shared library, or was cut off")
    own_class, own_machine = own_architecture()
    _, class_, _, _, machine, _ = _HEADER.unpack_from(start)
    if (class_, machine) != (own_class, own_machine):
        raise ValueError(
            f"{path.name!r} was built for another processor (ELF machine {machine}, this board is {own_machine}); "
            "build it with the board's target and cross compiler"
        )
    if _end_of_parts(path, start) > size:
        raise ValueError(f"{path.name!r} was cut off ({size} bytes arrived); upload it again")


def own_architecture() -> tuple[int, int]:
    """ELF class and machine of the running interpreter."""
    with open(sys.executable, "rb") as file:
        _, class_, _, _, machine, _ = _HEADER.unpack(file.read(_HEADER.size))
    return class_, machine


def _end_of_parts(path: Path, start: bytes) -> int:
    """Bytes that a whole file has: up to its loadable parts, and up to its tables of parts and of sections."""
    wide = start[4] == 2
    parts, sections = struct.unpack_from("<QQ" if wide else "<II", start, 32 if wide else 28)
    part_size, part_count, section_size, section_count = struct.unpack_from("<4H", start, 54 if wide else 42)
    end = max(parts + part_size * part_count, sections + section_size * section_count)
    with path.open("rb") as file:
        file.seek(parts)
        table = file.read(part_size * part_count)
    for position in range(0, len(table) - part_size + 1, part_size):
        first, size = struct.unpack_from("<8xQ16xQ" if wide else "<4xI8xI", table, position)
        end = max(end, first + size)
    return int(end)
