"""Concatenations that begin as an earlier one does, or that join what was split, read the whole instead."""

from __future__ import annotations

from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.rewriter import Rewriter, with_inputs


def share_concats(graph: Graph) -> Graph:
    """``concat(a, b, c)`` becomes ``concat(concat(a, b), c)`` where the inner one exists.

    Then a tensor has few readers, and the choice of routines stays a problem of small treewidth.
    """
    rewriter = Rewriter(graph)
    known: dict[tuple[int, tuple[str, ...]], str] = {}
    for layer in rewriter.layers("concat"):
        axis, inputs = layer.attributes.axis, layer.inputs
        known.setdefault((axis, inputs), layer.outputs[0])
        for length in range(len(inputs) - 1, 1, -1):
            whole = known.get((axis, inputs[:length]))
            if whole is not None:
                rewriter.replace(layer, with_inputs(layer, (whole, *inputs[length:])))
                break
    return rewriter.graph()


def join_slices(graph: Graph) -> Graph:
    """``concat(x[:, :a], x[:, a:], b)`` becomes ``concat(x, b)``, and ``x`` where nothing else is joined."""
    rewriter = Rewriter(graph)
    for layer in rewriter.layers("concat"):
        axis, left, joined = layer.attributes.axis, list(layer.inputs), list[str]()
        while left:
            whole, count = _split(rewriter, left, axis)
            joined.append(whole)
            del left[:count]
        if joined == [joined[0]] and rewriter.tensors[joined[0]] == rewriter.tensors[layer.outputs[0]]:
            rewriter.redirect(layer.outputs[0], joined[0])
        elif tuple(joined) != layer.inputs:
            rewriter.replace(layer, with_inputs(layer, joined))
    return rewriter.graph()


def _split(rewriter: Rewriter, tensors: list[str], axis: int) -> tuple[str, int]:
    """A tensor whose slices, in order, are the first of some tensors, and how many; or the first of them itself."""
    first = rewriter.producer(tensors[0], "slice")
    if first is None:
        return tensors[0], 1
    whole, at = first.inputs[0], 0
    for count, tensor in enumerate(tensors, 1):
        layer = rewriter.producer(tensor, "slice")
        if layer is None or layer.inputs[0] != whole or not _is_range(rewriter, layer, axis, at):
            break
        at = layer.attributes.end[axis]
        if at == rewriter.tensors[whole].shape[axis]:
            return whole, count
    return tensors[0], 1


def _is_range(rewriter: Rewriter, layer: Layer, axis: int, begin: int) -> bool:
    """True for all positions from `begin` to some other one along an axis, and all along the others."""
    shape, index = rewriter.tensors[layer.inputs[0]].shape, layer.attributes.index
    is_whole = all(
        part == slice(0, extent, 1) for i, (part, extent) in enumerate(zip(index, shape, strict=True)) if i != axis
    )
    return is_whole and index[axis].start == begin and index[axis].step == 1
