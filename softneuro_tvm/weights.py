"""The weights of a built network: data of its library, which the loader maps from the file and nobody copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from softneuro_tvm.memory import aligned

ADDRESS_FUNCTION = "softneuro_weights"
"""C function of a library, ``const void *softneuro_weights(void)``: where its weights begin."""


@dataclass(frozen=True, eq=False)
class Weights:
    """Arrays one after the other, each aligned.

    Args:
        arrays: As kernels read them.
    """

    arrays: Sequence[np.ndarray] = ()

    @property
    def offsets(self) -> list[int]:
        """Bytes from the beginning to each array."""
        offsets, end = [], 0
        for array in self.arrays:
            offsets.append(end)
            end += aligned(array.nbytes)
        return offsets

    @property
    def size_bytes(self) -> int:
        """Bytes of all, gaps included."""
        return sum(aligned(array.nbytes) for array in self.arrays)

    def pieces(self) -> Iterator[np.ndarray]:
        """What lies in memory in order, as bytes: arrays, and zeros between them."""
        for array in self.arrays:
            yield np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            yield np.zeros(aligned(array.nbytes) - array.nbytes, np.uint8)
