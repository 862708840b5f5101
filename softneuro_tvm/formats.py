"""Tensor types and formats: what flows between layers, and how it lies in memory. Needs numpy only."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from softneuro_tvm.errors import LayoutError

_CANONICAL = {0: "", 1: "C", 2: "NC", 3: "NCW", 4: "NCHW", 5: "NCDHW"}
_TOKEN = re.compile(r"([A-Z])|(\d+)([a-z])")


OPEN = -1
"""An extent that depends on data. Only outputs of fall-through layers have such, and only the model returns them."""


@dataclass(frozen=True)
class TensorType:
    """Logical shape (in the canonical layout of its rank; `OPEN` extents are known when it is computed) and dtype."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def rank(self) -> int:
        """Number of logical axes."""
        return len(self.shape)

    @property
    def is_open(self) -> bool:
        """True if the shape depends on data."""
        return OPEN in self.shape

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor without padding; 0 if its shape depends on data."""
        return 0 if self.is_open else math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.dtype}[{'x'.join('?' if extent == OPEN else str(extent) for extent in self.shape)}]"


@dataclass(frozen=True, order=True)
class Format:
    """How a routine reads or writes one tensor: TVM layout string, element type and device."""

    layout: str
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def shown(self) -> str:
        """The layout, for people; with its element type where that is not float32."""
        layout = self.layout or "scalar"
        return layout if self.dtype == "float32" else f"{layout} {self.dtype}"

    def __str__(self) -> str:
        return ":".join((self.device, self.dtype, self.layout or "scalar"))


def canonical_layout(rank: int) -> str:
    """The layout in which logical shapes of this rank are written, e.g. ``NCHW`` for 4; ``ABCDEF`` beyond 5."""
    return _CANONICAL.get(rank) or "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:rank]


def canonical_format(tensor: TensorType) -> Format:
    """The format of model inputs and outputs: canonical layout on the CPU."""
    return Format(canonical_layout(tensor.rank), tensor.dtype)


@lru_cache(maxsize=4096)
def parse_layout(layout: str) -> tuple[tuple[str, int], ...]:
    """Splits a TVM layout string into axes.

    Returns:
        Pairs (upper-case axis, block size); block size 0 marks the outer (primal) axis: ``NCHW8c`` gives
        ``(("N", 0), ("C", 0), ("H", 0), ("W", 0), ("C", 8))``.

    Raises:
        LayoutError: malformed string, or a block of an axis that is absent.
    """
    axes: list[tuple[str, int]] = []
    position = 0
    while position < len(layout):
        match = _TOKEN.match(layout, position)
        if match is None:
            raise LayoutError(f"layout {layout!r} is malformed at {layout[position:]!r}; write it like NCHW or NCHW8c")
        axes.append((match[1], 0) if match[1] else (match[3].upper(), int(match[2])))
        position = match.end()
    outer = [name for name, block in axes if block == 0]
    inner = [name for name, block in axes if block]
    if len(set(outer)) != len(outer) or len(set(inner)) != len(inner) or not set(inner) <= set(outer):
        raise LayoutError(f"layout {layout!r} repeats an axis or blocks an axis that it does not have")
    if any(block == 1 for name, block in axes if name in inner and block):
        raise LayoutError(f"layout {layout!r} has a block of 1; leave it out")
    return tuple(axes)


def block_of(layout: str, axis: str) -> int:
    """Block size of an axis in a layout; 1 if the axis is not blocked."""
    return next((block for name, block in parse_layout(layout) if name == axis and block), 1)


def physical_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Shape of the buffer that holds a tensor of this logical shape; blocked axes are rounded up.

    ``physical_shape((1, 20, 7, 7), "NCHW8c") == (1, 3, 7, 7, 8)``.

    Raises:
        LayoutError: the layout has other axes than the canonical layout of this rank.
    """
    axes = parse_layout(layout)
    canonical = canonical_layout(len(shape))
    if sorted(name for name, block in axes if not block) != sorted(canonical):
        raise LayoutError(f"layout {layout!r} does not fit a tensor of rank {len(shape)} (axes {canonical!r})")
    extent = dict(zip(canonical, shape, strict=True))
    return tuple(block or -(-extent[name] // block_of(layout, name)) for name, block in axes)


def physical_bytes(tensor: TensorType, tensor_format: Format) -> int:
    """Bytes of the buffer that holds the tensor in this format, padding included; 0 if its shape depends on data."""
    if tensor.is_open:
        return 0
    return math.prod(physical_shape(tensor.shape, tensor_format.layout)) * np.dtype(tensor_format.dtype).itemsize


def is_padded(shape: tuple[int, ...], layout: str) -> bool:
    """True if the buffer holds lanes beyond the logical extent. Their values are finite but meaningless."""
    return math.prod(physical_shape(shape, layout)) != math.prod(shape)


def pack(array: np.ndarray, layout: str) -> np.ndarray:
    """Copies an array from its canonical layout into another one; lanes beyond the logical extent become 0."""
    target = physical_shape(array.shape, layout)
    canonical = canonical_layout(array.ndim)
    if layout == canonical:
        return np.array(array, order="C")
    blocks = [block_of(layout, name) for name in canonical]
    padded = np.pad(array, [(0, -extent % block) for extent, block in zip(array.shape, blocks, strict=True)])
    split = padded.reshape([n for e, b in zip(padded.shape, blocks, strict=True) for n in (e // b, b)])
    order = [2 * canonical.index(name) + (1 if block else 0) for name, block in parse_layout(layout)]
    unblocked = [2 * i + 1 for i, block in enumerate(blocks) if block == 1]
    return np.ascontiguousarray(split.transpose(order + unblocked).reshape(target))


def unpack(array: np.ndarray, layout: str, shape: tuple[int, ...]) -> np.ndarray:
    """Inverse of `pack`: back into the canonical layout, padding cut off."""
    axes = parse_layout(layout)
    canonical = canonical_layout(len(shape))
    if layout == canonical:
        return np.array(array, order="C").reshape(shape)
    order = [axes.index((name, block)) for name in canonical for block in (0, block_of(layout, name)) if block != 1]
    blocks = [block_of(layout, name) for name in canonical]
    padded = [-(-extent // block) * block for extent, block in zip(shape, blocks, strict=True)]
    whole = array.reshape(physical_shape(shape, layout)).transpose(order).reshape(padded)
    return np.ascontiguousarray(whole[tuple(slice(extent) for extent in shape)])
