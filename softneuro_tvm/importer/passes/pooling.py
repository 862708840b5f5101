"""Pooling: means over a map become global average pooling; averages move in front of 1x1 convolutions."""

from __future__ import annotations

from math import prod

from softneuro_tvm.activations import IDENTITY
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


def average_first(graph: Graph) -> Graph:
    """A 1x1 convolution and the average pooling that alone reads it change places: they commute.

    The convolution then has as few positions as the pooling leaves, a quarter of them for windows of 2x2.
    """
    rewriter = Rewriter(graph)
    for pool in rewriter.layers("pool2d"):
        conv = rewriter.producer(pool.inputs[0], "conv2d")
        if conv is None or not rewriter.is_private(pool.inputs[0]) or not _is_linear(conv):
            continue
        data, after = rewriter.tensors[conv.inputs[0]], rewriter.tensors[pool.outputs[0]]
        attributes = pool.attributes
        is_whole = not any(attributes.padding) and attributes.overhang(*data.shape[2:]) == (0, 0)
        if attributes.mode != "average" or not is_whole or prod(after.shape[2:]) >= prod(data.shape[2:]):
            continue
        pooled = rewriter.fresh_name(f"{pool.name}_first")
        shape = (*data.shape[:2], *after.shape[2:])
        rewriter.replace(pool)
        rewriter.replace(
            conv,
            Layer(pool.name, "pool2d", attributes, conv.inputs, (pooled,)),
            Layer(conv.name, "conv2d", conv.attributes, (pooled,), pool.outputs, conv.weights),
            types={pooled: TensorType(shape, data.dtype)},
        )
    return rewriter.graph()


def _is_linear(conv: Layer) -> bool:
    """True for a convolution that computes each position from the one at the same place, without an activation."""
    a = conv.attributes
    is_pointwise = conv.weights["weight"].shape[2:] == (1, 1) and a.strides == (1, 1) and not any(a.padding)
    return is_pointwise and a.activation == IDENTITY and not a.residual
