"""Layers of whose weights most are zero: an attribute that says how many are not, so that measurements stay apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DENSITIES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
"""Shares of weights that are not zero; a layer has the smallest that is not exceeded. Denser ones are plain layers."""


@dataclass(frozen=True)
class SparseAttributes:
    """What attributes of sparse layers add to those of plain ones.

    Args:
        density: One of `DENSITIES`: at most this share of the weight's elements is not zero.
    """

    density: float = DENSITIES[-1]


def density_of(weight: np.ndarray) -> float | None:
    """The smallest of `DENSITIES` that a weight does not exceed; None if it exceeds all."""
    return next((d for d in DENSITIES if np.count_nonzero(weight) <= most_weights(weight.shape, d)), None)


def most_weights(shape: tuple[int, ...], density: float) -> int:
    """Largest number of elements that are not zero in a weight of this shape."""
    return int(density * int(np.prod(shape)))


def thin_out(weight: np.ndarray, density: float, seed: int) -> np.ndarray:
    """The weight with as many elements, drawn at random, as its density admits; larger, so that sums stay as large."""
    kept = np.random.default_rng(seed).permutation(weight.size)[: most_weights(weight.shape, density)]
    thinned = np.zeros(weight.size, weight.dtype)
    thinned[kept] = weight.ravel()[kept] / np.sqrt(density)
    return thinned.reshape(weight.shape)
