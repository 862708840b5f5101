"""Finds concatenations and slices for which nothing has to be copied, because parts can lie within the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from softneuro_tvm.formats import TensorType, canonical_layout
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.rewriter import Rewriter
from softneuro_tvm.layers.concat import InPlaceConcatAttributes, part_offsets
from softneuro_tvm.layers.slice import InPlaceSliceAttributes, slice_offset
from softneuro_tvm.memory import ALIGNMENT

_VIEWS = ("reshape", "transpose", "relax")
"""Kinds whose outputs may be the memory of their inputs."""
_LAYOUTS = ("NCHW16c", "NCHW8c", "NCHW4c", "NHWC")
"""For tensors of rank 4, besides the canonical one."""


def share_memory(graph: Graph) -> Graph:
    """Marks concatenations all of whose inputs can be written into the output, and slices that can stay where they are.

    Whether they can follows from the structure alone, so that the choice of a routine for one layer does not depend on
    what is chosen for others: layers of this graph write the inputs, one by one; no tensor is an input or output of the
    model, under whatever shape; and each is a part of one such concatenation only, the larger one if there are several.
    """
    rewriter, bound = Rewriter(graph), _bound(graph)
    parts: set[str] = set()
    concats = [layer for layer in graph.layers if layer.kind == "concat"]
    for layer in sorted(concats, key=lambda layer: -graph.tensors[layer.outputs[0]].size_bytes):
        is_free = len(set(layer.inputs)) == len(layer.inputs) > 1 and not parts & set(layer.inputs)
        is_ours = all(tensor in graph.producer and graph.producer[tensor].kind not in _VIEWS for tensor in layer.inputs)
        if is_free and is_ours and not bound & {*layer.inputs, *layer.outputs} and _is_joinable(graph, layer):
            parts |= set(layer.inputs)
            _mark(rewriter, layer, InPlaceConcatAttributes(layer.attributes.axis))
    for layer in graph.layers:
        if layer.kind == "slice" and not (bound | parts) & set(layer.outputs) and not bound & set(layer.inputs):
            if _is_run(graph, layer):
                a = layer.attributes
                _mark(rewriter, layer, InPlaceSliceAttributes(a.begin, a.end, a.strides))
    return rewriter.graph()


def _mark(rewriter: Rewriter, layer: Layer, attributes: object) -> None:
    rewriter.replace(layer, Layer(layer.name, layer.kind, attributes, layer.inputs, layer.outputs, layer.weights))


def _bound(graph: Graph) -> set[str]:
    """Tensors that may be memory of the model's inputs or outputs, or of what TVM's own kernels make."""
    linked: dict[str, set[str]] = {tensor: set() for tensor in graph.tensors}
    for layer in graph.layers:
        if layer.kind in _VIEWS:
            tensors = {*layer.inputs, *layer.outputs}
            for tensor in tensors:
                linked[tensor] |= tensors
    made = [tensor for layer in graph.layers if layer.kind == "relax" for tensor in layer.outputs]
    waiting = [*graph.inputs, *graph.outputs, *made]
    found = set(waiting)
    while waiting:
        more = linked[waiting.pop()] - found
        found |= more
        waiting += more
    return found


def _is_joinable(graph: Graph, layer: Layer) -> bool:
    inputs, axis = [graph.tensors[tensor] for tensor in layer.inputs], layer.attributes.axis
    return _in_some_layout(inputs[0], lambda layout: part_offsets(inputs, axis, layout))


def _is_run(graph: Graph, layer: Layer) -> bool:
    source = graph.tensors[layer.inputs[0]]

    def offsets(layout: str) -> Iterable[int] | None:
        found = slice_offset(source, layer.attributes, layout)
        return None if found is None else (found,)

    return _in_some_layout(source, offsets)


def _in_some_layout(tensor: TensorType, offsets: Callable[[str], Iterable[int] | None]) -> bool:
    """Whether there is a layout in which parts lie within the whole, each from a cache line on."""
    layouts = (canonical_layout(tensor.rank), *(_LAYOUTS if tensor.rank == 4 and tensor.dtype == "float32" else ()))
    found = (offsets(layout) for layout in layouts)
    return any(each is not None and not any(offset % ALIGNMENT for offset in each) for each in found)
