"""Layers of whose weights most are zero become sparse layers."""

from __future__ import annotations

from dataclasses import fields

from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.rewriter import Rewriter
from softneuro_tvm.layers._sparsity import SparseAttributes, density_of
from softneuro_tvm.layers.conv2d import Conv2dAttributes, SparseConv2dAttributes
from softneuro_tvm.layers.dense import SparseDenseAttributes

_SPARSE: dict[str, type[SparseAttributes]] = {"conv2d": SparseConv2dAttributes, "dense": SparseDenseAttributes}


def mark_sparse_weights(graph: Graph) -> Graph:
    """Notes the density of fully connected layers, and 1x1 convolutions like these, with at least 60 % zeros.

    Equal workloads share measurements, and the time of a sparse routine depends on how many weights it multiplies with.
    """
    rewriter = Rewriter(graph)
    for layer in rewriter.layers(*_SPARSE):
        weight, attributes = layer.weights["weight"], layer.attributes
        if layer.kind == "conv2d" and not _is_product(attributes, weight.shape):
            continue
        density = density_of(weight)
        if density is not None and not isinstance(attributes, SparseAttributes):
            known = {field.name: getattr(attributes, field.name) for field in fields(attributes)}
            marked = _SPARSE[layer.kind](**known, density=density)
            rewriter.replace(layer, Layer(layer.name, layer.kind, marked, layer.inputs, layer.outputs, layer.weights))
    return rewriter.graph()


def _is_product(attributes: Conv2dAttributes, shape: tuple[int, ...]) -> bool:
    """True for convolutions that are matrix products of all positions."""
    is_plain = attributes.strides == (1, 1) and not any(attributes.padding) and attributes.groups == 1
    return is_plain and shape[2:] == (1, 1)
