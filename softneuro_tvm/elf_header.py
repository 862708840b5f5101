"""What an object file or a library says about itself: which processor it is for, and whether it is whole."""

from __future__ import annotations

import struct
from pathlib import Path

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SHARED_OBJECT, _NOBITS = 3, 8
MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""Names of processors, as `platform.machine` gives them, by their number in ELF files."""


def machine_of(path: str | Path) -> str | None:
    """The processor that an ELF file is for; None if it is no (little-endian) ELF file or the processor is unknown.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as stream:
        head = stream.read(20)
    if len(head) < 20 or head[:4] != b"\x7fELF" or head[5] != 1:
        return None
    return MACHINES.get(int.from_bytes(head[18:20], "little"))


def damage(path: str | Path, machine: str) -> str:
    """What is wrong with a shared library that is to be sent elsewhere; empty if nothing.

    Loading a library that was cut off kills the process that loads it, and one for another processor is reported as
    missing.

    Args:
        path: The library.
        machine: The processor that it must be for.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as stream:
        head = stream.read(_HEADER.size)
        size_bytes = stream.seek(0, 2)
        if head[:4] != b"\x7fELF":
            return f"{path} is no ELF file"
        found = machine_of(path) or "an unknown processor"
        if found != machine:
            return f"{path} is for {found}, not for {machine}"
        if head[4] != 2 or len(head) < _HEADER.size:
            return "" if head[4] == 1 and size_bytes > _HEADER.size else f"{path} was cut off after {size_bytes} bytes"
        _, kind, _, _, _, _, sections_at, _, _, _, _, entry_bytes, count, _ = _HEADER.unpack(head)
        if kind != _SHARED_OBJECT:
            return f"{path} is no shared library"
        if sections_at + entry_bytes * count > size_bytes:
            return f"{path} was cut off after {size_bytes} bytes: its section headers are missing"
        stream.seek(sections_at)
        for _ in range(count):
            _, section, _, _, offset, length, *_ = _SECTION.unpack(stream.read(entry_bytes)[: _SECTION.size])
            if section != _NOBITS and offset + length > size_bytes:
                return f"{path} was cut off after {size_bytes} bytes: a section ends at {offset + length}"
    return ""
