"""Elementwise layers move before reshapes that only add or drop axes of extent 1, to the layers that they belong to."""

from __future__ import annotations

import numpy as np

from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.rewriter import Rewriter
from softneuro_tvm.layers.reshape import ReshapeAttributes

Shape = tuple[int, ...]


def lift_elementwise(graph: Graph) -> Graph:
    """``elementwise(reshape(x), ..)`` becomes ``reshape(elementwise(x, ..))``, for all inputs at once."""
    rewriter = Rewriter(graph)
    for layer in rewriter.layers("elementwise"):
        shape = rewriter.tensors[layer.outputs[0]].shape
        sources = [source for tensor in layer.inputs if (source := _source(rewriter, tensor, shape)) is not None]
        types = {rewriter.tensors[source] for source in sources}
        if len(sources) < len(layer.inputs) or len(types) != 1:
            continue
        (inner,) = types
        weights = {name: _reshaped(weight, shape, inner.shape) for name, weight in layer.weights.items()}
        tensor = rewriter.fresh_name(f"{layer.name}_lifted")
        name = rewriter.fresh_name(f"{layer.name}_reshape")
        lifted = Layer(layer.name, "elementwise", layer.attributes, tuple(sources), (tensor,), weights)
        reshape = Layer(name, "reshape", ReshapeAttributes(shape), (tensor,), layer.outputs)
        rewriter.replace(layer, lifted, reshape, types={tensor: inner})
    return rewriter.graph()


def _source(rewriter: Rewriter, tensor: str, shape: Shape) -> str | None:
    """What a reshape to this shape reads, if it adds or drops nothing but axes of extent 1."""
    reshape = rewriter.producer(tensor, "reshape")
    if reshape is None or rewriter.tensors[tensor].shape != shape:
        return None
    inner = rewriter.tensors[reshape.inputs[0]].shape
    return reshape.inputs[0] if [n for n in inner if n != 1] == [n for n in shape if n != 1] else None


def _reshaped(weight: np.ndarray, shape: Shape, inner: Shape) -> np.ndarray:
    """A constant that broadcasts to `inner` as it did to `shape`."""
    extents = (1,) * (len(shape) - weight.ndim) + weight.shape
    kept = iter(extent for extent, whole in zip(extents, shape, strict=True) if whole != 1)
    return weight.reshape([1 if whole == 1 else next(kept) for whole in inner])
