"""Means over a map become global average pooling."""

from __future__ import annotations

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.rewriter import Rewriter
from softneuro_tvm.layers.pool2d import Pool2dAttributes
from softneuro_tvm.layers.reshape import ReshapeAttributes


def pool_means(graph: Graph) -> Graph:
    """A mean over H and W that drops these axes becomes a pooling and a reshape."""
    rewriter = Rewriter(graph)
    for layer in rewriter.layers("reduction"):
        data = rewriter.tensors[layer.inputs[0]]
        attributes = layer.attributes
        if data.rank != 4 or (attributes.operation, attributes.axes, attributes.keepdims) != ("mean", (2, 3), False):
            continue
        n, c, h, w = data.shape
        pooled = rewriter.fresh_name(f"{layer.name}_pool")
        pool = Layer(pooled, "pool2d", Pool2dAttributes("average", (h, w)), layer.inputs, (pooled,))
        reshape = Layer(layer.name, "reshape", ReshapeAttributes((n, c)), (pooled,), layer.outputs)
        rewriter.replace(layer, pool, reshape, types={pooled: TensorType((n, c, 1, 1), data.dtype)})
    return rewriter.graph()
