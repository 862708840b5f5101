"""Writes data as an object file, without an assembler: it takes as long as copying the data."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_ALIGNMENT = 4096
"""Bytes: a page; data begin so far into the file."""
_RELOCATABLE, _GLOBAL_OBJECT = 1, 1 << 4 | 1
_PROGBITS, _SYMTAB, _STRTAB = 1, 2, 3
_ALLOC = 2
_RODATA, _NAMES = 1, 3
"""Indices of sections."""


def is_elf64(data: bytes) -> bool:
    """True if an object file's format is the one that `write_data_object` writes: ELF, 64 bits, little-endian."""
    return data[:6] == b"\x7fELF\x02\x01"


def write_data_object(path: Path, symbol: str, pieces: Iterable[Any], like: bytes) -> None:
    """Writes an object file that holds read-only data.

    Args:
        path: The file to write.
        symbol: Global symbol of the data.
        pieces: Contiguous arrays of bytes, which follow one another.
        like: An object file for the same machine, `is_elf64`.
    """
    with path.open("wb") as stream:
        stream.seek(_ALIGNMENT)
        for piece in pieces:
            stream.write(piece)
        size_bytes = stream.tell() - _ALIGNMENT
        header, rest = _around(symbol, size_bytes, like)
        stream.write(rest)
        stream.seek(0)
        stream.write(header)


def _around(symbol: str, size_bytes: int, like: bytes) -> tuple[bytes, bytes]:
    """What comes before data of a size, and what comes after them."""
    identification, _, machine, version, _, _, _, flags, *_ = _HEADER.unpack_from(like)
    names = [b"", b".rodata", b".symtab", b".strtab", b".note.GNU-stack", symbol.encode()]
    name_at = {name: sum(len(each) + 1 for each in names[:index]) for index, name in enumerate(names)}
    texts = b"\0".join(names) + b"\0"
    symbols = _SYMBOL.pack(0, 0, 0, 0, 0, 0)
    symbols += _SYMBOL.pack(name_at[symbol.encode()], _GLOBAL_OBJECT, 0, _RODATA, 0, size_bytes)
    symbols_at = -(-(_ALIGNMENT + size_bytes) // 8) * 8
    texts_at = symbols_at + len(symbols)
    sections_at = -(-(texts_at + len(texts)) // 8) * 8
    sections = [
        _SECTION.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        _SECTION.pack(name_at[b".rodata"], _PROGBITS, _ALLOC, 0, _ALIGNMENT, size_bytes, 0, 0, _ALIGNMENT, 0),
        _SECTION.pack(name_at[b".symtab"], _SYMTAB, 0, 0, symbols_at, len(symbols), _NAMES, 1, 8, _SYMBOL.size),
        _SECTION.pack(name_at[b".strtab"], _STRTAB, 0, 0, texts_at, len(texts), 0, 0, 1, 0),
        _SECTION.pack(name_at[b".note.GNU-stack"], _PROGBITS, 0, 0, texts_at, 0, 0, 0, 1, 0),
    ]
    sizes = (_HEADER.size, 0, 0, _SECTION.size, len(sections), _NAMES)
    header = _HEADER.pack(identification, _RELOCATABLE, machine, version, 0, 0, sections_at, flags, *sizes)
    rest = bytes(symbols_at - _ALIGNMENT - size_bytes) + symbols + texts
    return header, rest + bytes(sections_at - texts_at - len(texts)) + b"".join(sections)
