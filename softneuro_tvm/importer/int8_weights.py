"""Finds the 8-bit integers that a weight was made of: a float weight of a quantised model lies on a grid."""

from __future__ import annotations

import numpy as np

_TOLERANCE = 1e-4
"""Distance from an integer, in steps, that float32 rounding explains."""

_SAMPLE = 64
"""Elements of a row that are looked at first."""


def integer_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Writes each row of a weight as int8 integers times a scale.

    Args:
        weight: float32 [K, ...]; a row is everything at one index of the first axis.

    Returns:
        Integers of the weight's shape, and scales float32 [K], 0 for rows of zeros. None if a row is on no such grid.
    """
    rows = weight.reshape(weight.shape[0], -1)
    if not np.isfinite(rows).all():
        return None
    scales = _one_scale(rows)
    scales = _scales(rows) if scales is None else scales
    if scales is None:
        return None
    integers = np.rint(rows / np.where(scales == 0, 1, scales)[:, None])
    return integers.astype(np.int8).reshape(weight.shape), scales


def _one_scale(rows: np.ndarray) -> np.ndarray | None:
    """The scale of a weight that has a single one."""
    peak = float(np.abs(rows).max())
    for largest in (127, 128):
        scale = peak / largest
        if peak and _on_grid(rows.reshape(1, -1), np.array([scale]))[0]:
            exact = _exact(rows.reshape(1, -1), np.array([scale], np.float32))
            return np.where(np.abs(rows).max(axis=1) > 0, exact[0], np.float32(0))
    return None


def _scales(rows: np.ndarray) -> np.ndarray | None:
    """A scale for each row: the coarsest grid that fits, except that a largest element of 127 is tried first."""
    peaks = np.abs(rows).max(axis=1).astype(np.float64)
    scales = np.zeros(len(rows))
    for largest in (127, *range(1, 127), 128):
        waiting = np.flatnonzero((scales == 0) & (peaks > 0))
        if not waiting.size:
            break
        tried = peaks[waiting] / largest
        fits = _on_grid(rows[waiting, :_SAMPLE], tried)
        waiting, tried = waiting[fits], tried[fits]
        fits = _on_grid(rows[waiting], tried)
        scales[waiting[fits]] = tried[fits]
    if ((scales == 0) & (peaks > 0)).any():
        return None
    return _exact(rows, scales.astype(np.float32))


def _on_grid(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Whether all elements of each row are int8 integers times its scale."""
    steps = rows / scales[:, None]
    integers = np.rint(steps)
    fits = (np.abs(steps - integers) <= _TOLERANCE) & (integers >= -128) & (integers <= 127)
    return np.asarray(fits.all(axis=1))


def _exact(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The float32 scales next to those given with which the products are exactly the elements, where there are such."""
    integers = np.rint(rows / np.where(scales == 0, 1, scales)[:, None]).astype(np.float32)
    found = scales.copy()
    for candidate in (np.nextafter(scales, 0), np.nextafter(scales, np.float32(np.inf)), scales):
        is_exact = (integers * candidate[:, None] == rows).all(axis=1)
        found = np.where(is_exact, candidate, found)
    return found.astype(np.float32)
