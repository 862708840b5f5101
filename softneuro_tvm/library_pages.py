"""Memory of loaded libraries that nobody reads again."""

from __future__ import annotations

import _ctypes
import ctypes
import mmap
from pathlib import Path

_BINARY = "__tvm_ffi__library_bin"
"""Symbol of the serialised modules within a library: length in eight bytes, then so many bytes."""


def release_serialised_modules(path: Path) -> None:
    """Lets go of the pages of a loaded library that hold its serialised modules, weights among them.

    Loading has copied them; until then they are resident twice. Should they be read after all, they come back from
    the file.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    library = ctypes.CDLL(str(path))
    try:
        begin = ctypes.addressof(ctypes.c_char.in_dll(library, _BINARY))
        end = begin + 8 + ctypes.c_uint64.from_address(begin).value
        first, last = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last:
            madvise = ctypes.CDLL(None).madvise
            madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), ctypes.c_int(mmap.MADV_DONTNEED))
    finally:
        _ctypes.dlclose(library._handle)
