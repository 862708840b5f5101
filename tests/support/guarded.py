"""Arrays beside memory that nobody may touch: who reads beyond them is killed."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

_LIBC = ctypes.CDLL(None, use_errno=True)
_NOTHING = 0
"""PROT_NONE."""
_ALIGNMENT = 64


def guarded(array: np.ndarray, at_end: bool) -> np.ndarray:
    """A copy that ends where such memory begins, up to alignment, or begins where it ends.

    Args:
        array: What to copy.
        at_end: Whether its end is guarded closely, or its beginning.
    """
    page = mmap.PAGESIZE
    occupied = -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    size = -(-max(1, occupied) // page) * page
    memory = mmap.mmap(-1, size + 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for guard in (address, address + page + size):
        if _LIBC.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), _NOTHING):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = page + (size - occupied if at_end else 0)
    copy = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    return copy
