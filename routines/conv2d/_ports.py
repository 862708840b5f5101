"""Arguments, bias and epilogue of convolution kernels that work on one row of output vectors at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from softneuro_tvm.formats import physical_shape
from softneuro_tvm.graph import Workload
from softneuro_tvm.routine import Variant

from .._blocked import Epilogue
from .._channels import ChannelVectors
from .._tir import Expr, Kernel


@dataclass(frozen=True, eq=False)
class Ports:
    """Flat buffers of a convolution kernel, by name: x, [residual], weight, bias, [slope], y.

    Args:
        buffers: The arguments; bias and slope are [number of channel vectors, lanes].
        epilogue: What happens before the store.
        lanes: Elements of a vector.
    """

    buffers: Mapping[str, Any]
    epilogue: Epilogue
    lanes: int

    @staticmethod
    def declare(k: Kernel, workload: Workload, variant: Variant, weight: Sequence[int], v: ChannelVectors) -> Ports:
        """Declares the arguments; `weight` is the shape of the packed weight, `v` splits the output channels."""
        epilogue = Epilogue.of(workload)
        x = physical_shape(workload.inputs[0].shape, variant.inputs[0].layout)
        y = physical_shape(workload.outputs[0].shape, variant.outputs[0].layout)
        vector = (v.number, v.lanes)
        shapes = {"x": x, "residual": y, "weight": weight, "bias": vector, "slope": vector, "y": y}
        if not epilogue.residual:
            del shapes["residual"]
        if not epilogue.is_prelu:
            del shapes["slope"]
        return Ports(dict(zip(shapes, k.arguments(*shapes.items()), strict=True)), epilogue, v.lanes)

    def begin(self, k: Kernel, accumulators: Any, width: int, vector: Expr) -> None:
        """Puts the bias of an output vector into `width` accumulators."""
        bias = k.bind(k.load(self.buffers["bias"], vector * self.lanes, self.lanes))
        for i in range(width):
            k.store(accumulators, i * self.lanes, bias, self.lanes)

    def finish(self, k: Kernel, accumulators: Any, width: int, vector: Expr, offset: Expr, step: int) -> None:
        """Adds the residual, activates and stores `width` accumulators, `step` elements apart from `offset` on."""
        v, buffers = self.lanes, self.buffers
        slope = k.bind(k.load(buffers["slope"], vector * v, v)) if self.epilogue.is_prelu else None
        for i in range(width):
            position = offset + i * step
            residual = partial(k.load, buffers.get("residual"), position, v)
            value = self.epilogue.finish(k.load(accumulators, i * v, v), v, residual, lambda: slope)
            k.store(buffers["y"], position, value, v)


def pack_vectors(weights: Mapping[str, np.ndarray], vectors: ChannelVectors) -> tuple[np.ndarray, ...]:
    """Bias, and slope for PReLU, as [number, lanes]."""
    return tuple(vectors.gather(weights[key].astype("float32")) for key in ("bias", "slope") if key in weights)
