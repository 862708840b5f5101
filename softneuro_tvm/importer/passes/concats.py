"""Concatenations that begin as an earlier one does read its result instead (DenseNet)."""

from __future__ import annotations

from softneuro_tvm.graph import Graph
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
