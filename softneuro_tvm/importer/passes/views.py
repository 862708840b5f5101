"""Reshapes, transposes and slices that do nothing, or that undo one another, disappear."""

from __future__ import annotations

from collections.abc import Sequence

from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.rewriter import Rewriter
from softneuro_tvm.layers.reshape import ReshapeAttributes
from softneuro_tvm.layers.transpose import TransposeAttributes


def simplify_views(graph: Graph) -> Graph:
    """Joins reshapes of reshapes and transposes of transposes; drops what leaves its input as it is."""
    rewriter = Rewriter(graph)
    for layer in rewriter.layers("reshape", "transpose", "slice"):
        while (found := rewriter.current(layer)) is not None:
            if _is_identity(rewriter, found):
                rewriter.redirect(found.outputs[0], found.inputs[0])
                break
            joined = _joined(rewriter, found)
            if joined is None:
                break
            rewriter.replace(found, joined)
    return rewriter.graph()


def _is_identity(rewriter: Rewriter, layer: Layer) -> bool:
    if layer.kind == "transpose":
        return bool(layer.attributes.axes == tuple(range(len(layer.attributes.axes))))
    return rewriter.tensors[layer.inputs[0]] == rewriter.tensors[layer.outputs[0]]


def _joined(rewriter: Rewriter, layer: Layer) -> Layer | None:
    """The layer as one that reads something earlier, or as a simpler one; None if there is none."""
    if layer.kind == "slice":
        return None
    shape = rewriter.tensors[layer.inputs[0]].shape
    if layer.kind == "transpose" and _keeps_order(shape, layer.attributes.axes):
        attributes = ReshapeAttributes(rewriter.tensors[layer.outputs[0]].shape)
        return Layer(layer.name, "reshape", attributes, layer.inputs, layer.outputs)
    before = rewriter.producer(layer.inputs[0], layer.kind)
    if before is None:
        return None
    if layer.kind == "reshape":
        return Layer(layer.name, "reshape", layer.attributes, before.inputs, layer.outputs)
    axes = tuple(before.attributes.axes[axis] for axis in layer.attributes.axes)
    return Layer(layer.name, "transpose", TransposeAttributes(axes), before.inputs, layer.outputs)


def _keeps_order(shape: Sequence[int], axes: Sequence[int]) -> bool:
    """True if a transpose only moves axes of extent 1, so that the elements stay in order."""
    moved = [axis for axis in axes if shape[axis] != 1]
    return moved == sorted(moved)
