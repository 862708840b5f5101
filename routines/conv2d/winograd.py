"""Winograd convolution F(m, r), in one direction or in both, with stride 1 or 2 on channel-blocked maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import blocked_layouts, pack_channel_vectors, pad_axis, port_formats
from .._half import also_in_float16
from .._threads import thread_counts
from ._winograd_kernel import write_kernel
from ._winograd_matrices import winograd_matrices
from ._winograd_plan import Plan, is_worthwhile, kernel_extents, longest_taps, promising_plans

_COLUMNS = 8192
"""Kernels that are transformed at a time: their sums in float64 stay in the cache."""

CYCLES_PER_SECOND = 3e9
"""To decide whether a layer is too small for threads."""

LARGEST_KERNEL = 7
"""Rows and columns for which there are transforms of two outputs and more."""

BOUNDED = ("tanh", "sigmoid", "hard_sigmoid", "clip")
"""Activations whose outputs do not grow with the sums."""


def _fits(workload: Workload) -> bool:
    """True for kernels for which there are transforms."""
    kernel = kernel_extents(workload)
    return max(kernel) <= LARGEST_KERNEL and max(longest_taps(kernel, workload.attributes.strides)) > 1


def _steps(workload: Workload) -> bool:
    """True for strides, and strides with dilation, that the transforms read."""
    strides = workload.attributes.strides
    return bool(max(strides) == 1 or (max(strides) == 2 and workload.attributes.dilation == (1, 1)))


def _pads_less_than_kernel(workload: Workload) -> bool:
    """True if the kernel never lies in the padding as a whole."""
    reach = [(r - 1) * d for r, d in zip(kernel_extents(workload), workload.attributes.dilation, strict=True)]
    return all(pad <= extent for pad, extent in zip(workload.attributes.padding, reach * 2, strict=True))


def _error(workload: Workload, variant: Variant) -> float:
    """Grows with the entries of the transforms and with the number of products in a sum.

    Where the activation bounds the outputs, the error of large sums is compared to smaller ones.
    """
    bounded = workload.attributes.activation.name in BOUNDED
    plan = Plan.of(workload, variant)
    growth = math.sqrt(max(1.0, workload.inputs[0].shape[1] * math.prod(plan.phases) / 64))
    return plan.error * growth * (8 if bounded else 1)


@also_in_float16(_error)
class Winograd(Routine):
    """Transforms tiles of input, multiplies one matrix for each of their points, transforms back.

    A tile is of m outputs in each direction, and of m + r - 1 points where the kernel has r taps; in a direction in
    which the kernel does not extend, of one. ``m=4`` is a tile of 4 x 4, ``m=1x4`` one for 1x3, 1x5 or 1x7 kernels.

    With stride 2 the even and the odd rows and columns of the input (its phases) each meet every second tap: a 3x3
    kernel falls apart into kernels of 2x2, 2x1, 1x2 and 1x1, whose products are summed before the output transform.
    They are all transformed as the longest, with zeros, but where a phase has a tap less, the transformed kernel is
    zero at one point of the tile, which is left out: F(3, 2) takes 49 multiplications for 9 outputs instead of 81.

    Shapes: x NCHW<c>c; weight [block of K][point][C][k], flat; y NCHW<c>c. Any sizes, channels, batch and dilation.

    Works in bands of `rows` x `columns` tiles, so that the transformed input (V) stays in a cache; for each block of
    `vectors` vectors of output channels come all products (M), in register tiles of tiles x vectors while the next
    weights are prefetched, and then the output transform with bias, residual and activation. Threads share the
    bands, or in each band the blocks of input channels (transform) and then of output channels (products).

    Error: relative to the largest output, for normal data and 64 channels, 1e-6, 2e-5, 3e-5 for 3x3 kernels with
    m = 2, 4, 6 (bounds; a third of that is typical), at most 1.3e-4 for others. It follows from the entries of the
    transforms (`amplification`), and grows with the square root of the number of channels, those of all phases.

    Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2015).
    """

    kind = "conv2d"
    source = "Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2015)"
    requirements = (
        Requirement("a kernel larger than its stride and no larger than 7x7", lambda w, d: _fits(w)),
        Requirement("stride 1, or stride 2 without dilation", lambda w, d: _steps(w)),
        Requirement("one group of channels", lambda w, d: w.attributes.groups == 1),
        Requirement("padding smaller than the kernel", lambda w, d: _pads_less_than_kernel(w)),
        Requirement(
            "with stride 2, a map so large that what it saves outweighs the transforms and the larger weights",
            lambda w, d: max(w.attributes.strides) == 1 or is_worthwhile(w, blocked_layouts(d)[0], d),
        ),
    )

    def variants(self, workload: Workload, device: Device) -> Iterator[Variant]:
        """Tile sizes and bands by estimated time: large tiles for large maps, small ones where weights are many."""
        layout = blocked_layouts(device)[0]
        inputs, outputs = port_formats(workload, layout, layout)
        serial = list(promising_plans(workload, layout, device, 1))
        counts = thread_counts(device, serial[0].cycles(device) / CYCLES_PER_SECOND) if serial else ()
        for threads in counts:
            for plan in serial if threads == 1 else promising_plans(workload, layout, device, threads):
                yield Variant(plan.params, inputs, outputs)

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Grows with the entries of the transforms and with the number of products in a sum."""
        return _error(workload, variant)

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """V, M, and tile rows whose columns are transformed."""
        return Plan.of(workload, variant).workspace_bytes

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Transforms the weights in float64 and rounds once."""
        p = Plan.of(workload, variant)
        down, along = (np.array(winograd_matrices(*mr).g, np.float64) for mr in zip(p.m, p.taps, strict=True))
        u = self._transformed(p, np.kron(down, along), weights["weight"].transpose(2, 3, 1, 0))
        u = pad_axis(pad_axis(u, 1, p.channels), 2, p.lanes)
        parts, first = [], 0
        for count, vectors in p.blocks:
            last = first + count * vectors * p.lanes
            part = u[:, :, first:last].reshape(*u.shape[:2], count, vectors * p.lanes)
            parts.append(part.transpose(2, 0, 1, 3).ravel())
            first = last
        return (np.concatenate(parts), *pack_channel_vectors(workload, weights, p.lanes))

    @staticmethod
    def _transformed(p: Plan, matrix: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Weights [R, S, C, K] at each point in each phase of the input that is not zero there, [terms, C, K]."""
        (rows, columns), (down, across), (height, width) = p.taps, p.stride, p.tile
        found: dict[tuple[int, int, int, int], np.ndarray] = {}
        for y, x in np.ndindex(*p.phases):
            part = weight[y::down, x::across]
            taps = np.zeros((rows, columns, *weight.shape[2:]), weight.dtype)
            taps[: part.shape[0], : part.shape[1]] = part
            taps = taps.reshape(matrix.shape[1], -1)
            u = np.empty((p.points, taps.shape[1]), np.float32)
            for start in range(0, taps.shape[1], _COLUMNS):
                u[:, start : start + _COLUMNS] = matrix @ taps[:, start : start + _COLUMNS].astype(np.float64)
            used = height - (y >= p.full[0]), width - (x >= p.full[1])
            found |= {(i, j, y, x): u[i * width + j].reshape(weight.shape[2:]) for i, j in np.ndindex(*used)}
        return np.stack([found[key] for key in sorted(found)])

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """The kernel; see the class."""
        return write_kernel(workload, variant, device)
