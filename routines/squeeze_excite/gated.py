"""Squeeze and excitation in one kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format, physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.squeeze_excite import SqueezeExcite
from softneuro_tvm.routine import Routine, Variant

from .._blocked import Blocked, blocked_layouts
from .._tir import Expr, Kernel, round_up
from ..conv2d._product import Product, Store
from ..conv2d._tiles import MIN_CHAINS, for_each_group

_ACCUMULATORS = 4
_NAMES = ("squeeze", "excite")


class Gated(Routine):
    """Averages, two products with one position, and the scaling, for one image after the other.

    Averages and gates stay in the first-level cache; the map is read a second time while it is in the second-level
    cache, if it fits. Images run in parallel; one image runs on one thread.

    Shapes: x NCHW<c>c, twice; squeeze.weight [S group][C][s]; excite.weight [C group][S][c]; y NCHW<c>c.
    Error: that of a sum of H W values and of two sums of C and S products.
    """

    kind = "squeeze_excite"
    source = "Hu, Shen and Sun, Squeeze-and-Excitation Networks, CVPR 2018"

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One for each blocked layout."""
        for layout in blocked_layouts(device):
            port = Format(layout)
            yield Variant((("registers", device.vector_registers),), (port, port), (port,))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Those of the parts together."""
        return 4e-5

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """The convolutions' weights in order, each by groups of vectors; bias; slope."""
        packed = list[np.ndarray]()
        for name, product in _products(workload, variant).items():
            own = {key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(f"{name}.")}
            packed += product.pack(own)
        return tuple(packed)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """The kernel: x to average, x to scale, packed weights, y."""
        layout, products = variant.inputs[0].layout, _products(workload, variant)
        x, v = Blocked(workload.inputs[0].shape, layout), Blocked(workload.inputs[0].shape, layout).block
        shape, k = physical_shape(x.shape, layout), Kernel()
        shapes = {"x": shape, "scaled": shape}
        for name, product in products.items():
            shapes |= {f"{name}_{key}": extents for key, extents in product.shapes.items()}
        shapes["y"] = shape
        positions, images = x.shape[2] * x.shape[3], x.shape[0]
        with k:
            buffers = dict(zip(shapes, k.arguments(*shapes.items()), strict=True))
            with k.loop(images, parallel=device.threads > 1 and images > 1) as n:
                source = k.scratch(x.blocks * v)
                with k.loop(x.blocks) as block:
                    total = _total(k, buffers["x"], (n * x.blocks + block) * x.plane, positions, v)
                    k.store(source, block * v, total * k.splat(1 / positions, v), v)
                for name, product in products.items():
                    result = k.scratch(product.shapes["bias"][0])
                    own = {key: buffers[f"{name}_{key}"] for key in product.shapes}
                    for_each_group(k, product.groups, 0, 1, partial(_group, k, product, own, source, result))
                    source = result
                with k.loop(x.blocks) as block:
                    gate = k.bind(k.load(source, block * v, v))
                    with k.loop(positions) as position:
                        at = k.bind((n * x.blocks + block) * x.plane + position * v)
                        value = k.load(buffers["scaled"], at, v)
                        k.store(buffers["y"], at, value * gate, v)
        return k.function

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """Averages, squeezed values and gates of all images, as if all ran at once."""
        products = _products(workload, variant)
        channels = round_up(workload.inputs[0].shape[1], products["squeeze"].block)
        values = channels + sum(product.shapes["bias"][0] for product in products.values())
        return 4 * workload.inputs[0].shape[0] * values


def _products(workload: Workload, variant: Variant) -> dict[str, Product]:
    """The two convolutions of one position."""
    lanes = Blocked(workload.inputs[0].shape, variant.inputs[0].layout).block
    parts = SqueezeExcite().part_workloads(workload)
    return {name: Product(parts[name], lanes, lanes, MIN_CHAINS, int(variant["registers"])) for name in _NAMES}


def _total(k: Kernel, x: Any, start: Expr, positions: int, v: int) -> Expr:
    """Sum over the positions of a channel vector."""
    number = min(_ACCUMULATORS, positions)
    sums = [k.scratch(v) for _ in range(number)]
    for i, buffer in enumerate(sums):
        k.store(buffer, 0, k.load(x, start + i * v, v), v)
    with k.loop(positions // number - 1) as step:
        for i, buffer in enumerate(sums):
            at = start + ((step + 1) * number + i) * v
            k.store(buffer, 0, k.load(buffer, 0, v) + k.load(x, at, v), v)
    for i in range(positions % number):
        at = start + (positions - positions % number + i) * v
        k.store(sums[i], 0, k.load(sums[i], 0, v) + k.load(x, at, v), v)
    total = k.load(sums[0], 0, v)
    for buffer in sums[1:]:
        total = total + k.load(buffer, 0, v)
    return total


def _group(
    k: Kernel, product: Product, own: Mapping[str, Any], source: Any, result: Any, size: int, first: Expr
) -> None:
    """Some output vectors of a convolution of one position."""
    v = product.lanes
    store = Store(result, v, lambda i, j, lane: ((first + j) * v + lane, True))
    product.tile(k, own, source, 0, v, (size, first), 1, store)
