"""Data as an object file, linked by the compiler that links everything."""

from __future__ import annotations

import ctypes
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from softneuro_tvm.elf import is_elf64, write_data_object
from softneuro_tvm.linking import linker

PROGRAM = Path(sys.executable).resolve().read_bytes()[:64]

pytestmark = pytest.mark.skipif(not is_elf64(PROGRAM), reason="this system's programs are not ELF files of 64 bits")


@pytest.mark.parametrize("size_bytes", [0, 1, 7, 8, 64, 100_003])
def test_data_come_back(tmp_path: Path, size_bytes: int) -> None:
    data = np.random.default_rng(size_bytes).integers(0, 256, size_bytes, np.uint8)
    write_data_object(tmp_path / "one.o", "first", [data[:5], data[5:]], PROGRAM)
    write_data_object(tmp_path / "two.o", "second_symbol", [data[::-1].copy()], PROGRAM)
    linker()(str(tmp_path / "both.so"), [str(tmp_path / "one.o"), str(tmp_path / "two.o")])
    library = ctypes.CDLL(str(tmp_path / "both.so"))
    for symbol, expected in (("first", data), ("second_symbol", data[::-1])):
        found = (ctypes.c_uint8 * size_bytes).in_dll(library, symbol)
        assert ctypes.addressof(found) % 4096 == 0
        np.testing.assert_array_equal(np.frombuffer(found, np.uint8), expected)


def test_the_machine_is_that_of_the_example(tmp_path: Path) -> None:
    example = bytearray(PROGRAM)
    struct.pack_into("<H", example, 18, 183)  # EM_AARCH64
    struct.pack_into("<I", example, 48, 0x5)
    write_data_object(tmp_path / "one.o", "data", [np.zeros(3, np.uint8)], bytes(example))
    written = (tmp_path / "one.o").read_bytes()
    assert struct.unpack_from("<HH", written, 16) == (1, 183)  # relocatable
    assert struct.unpack_from("<I", written, 48) == (0x5,)


@pytest.mark.parametrize("other", [b"", b"\xcf\xfa\xed\xfe\x0c\0", b"\x7fELF\x01\x01", b"\x7fELF\x02\x02", b"MZ"])
def test_other_formats_are_told_apart(other: bytes) -> None:
    assert not is_elf64(other)
