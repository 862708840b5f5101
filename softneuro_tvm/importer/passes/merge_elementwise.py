"""Chains and trees of elementwise layers become one layer each."""

from __future__ import annotations

from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.expressions import rebuilt
from softneuro_tvm.importer.rewriter import Rewriter
from softneuro_tvm.layers.elementwise import merge, unify_inputs

_MOST_TENSORS = 12
"""Inputs and constants of a merged layer: one kernel keeps a pointer to each in a register."""


def merge_elementwise(graph: Graph) -> Graph:
    """Merges a layer into its only reader if both write tensors of the same shape (so nothing is computed twice)."""
    rewriter = Rewriter(graph)
    for layer in rewriter.layers("elementwise"):
        merged = rewriter.current(layer)
        while merged and (producer := _mergeable(rewriter, merged)):
            merged = _merged(rewriter, producer, merged)
    return rewriter.graph()


def _mergeable(rewriter: Rewriter, layer: Layer) -> Layer | None:
    shape = rewriter.tensors[layer.outputs[0]].shape
    for tensor in layer.inputs:
        producer = rewriter.producer(tensor, "elementwise")
        if not producer or not rewriter.is_private(tensor) or rewriter.tensors[tensor].shape != shape:
            continue
        tensors = {*layer.inputs, *producer.inputs} - {tensor}
        if len(tensors) + len(layer.weights) + len(producer.weights) <= _MOST_TENSORS:
            return producer
    return None


def _merged(rewriter: Rewriter, producer: Layer, layer: Layer) -> Layer:
    """Replaces two layers by one."""
    attributes, inputs = unify_inputs(layer.attributes, layer.inputs)
    position = inputs.index(producer.outputs[0])
    both = merge(producer.attributes, attributes, position)
    constants = producer.attributes.count("w")
    weights = dict(producer.weights) | {f"w{int(key[1:]) + constants}": value for key, value in layer.weights.items()}
    tensors = [*inputs[:position], *producer.inputs, *inputs[position + 1 :]]
    merged = rebuilt(layer, both.expression, tensors, weights)
    rewriter.replace(producer)
    rewriter.replace(layer, merged)
    return merged
