"""Channel shuffles, with the concatenations before and the splits after them, become selections of channels."""

from __future__ import annotations

import numpy as np

from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.rewriter import Rewriter
from softneuro_tvm.layers.gather_channels import GatherChannelsAttributes

Sources = tuple[tuple[int, int], ...]


def select_channels(graph: Graph) -> Graph:
    """Rewrites concat -> reshape, transpose, reshape -> slices into one ``gather_channels`` for each slice."""
    rewriter = Rewriter(graph)
    for layer in rewriter.layers("reshape"):
        shuffle = _shuffle(rewriter, layer)
        if shuffle is None:
            continue
        gather = _after_concat(rewriter, shuffle)
        rewriter.replace(layer, gather)
        _before_slices(rewriter, gather)
    return rewriter.graph()


def _shuffle(rewriter: Rewriter, layer: Layer) -> Layer | None:
    """A reshape of a transpose of a reshape, as a selection of channels."""
    transpose = rewriter.producer(layer.inputs[0], "transpose")
    first = rewriter.producer(transpose.inputs[0], "reshape") if transpose else None
    if transpose is None or first is None:
        return None
    source = rewriter.tensors[first.inputs[0]]
    if source.rank != 4 or source != rewriter.tensors[layer.outputs[0]]:
        return None
    channels = source.shape[1]
    position = np.arange(np.prod(source.shape)).reshape(source.shape)
    moved = position.reshape(first.attributes.shape).transpose(transpose.attributes.axes).reshape(source.shape)
    chosen = moved[0, :, 0, 0] // (source.shape[2] * source.shape[3])
    if chosen.max() >= channels or not np.array_equal(moved, position[:, chosen]):
        return None
    attributes = GatherChannelsAttributes(tuple((0, int(channel)) for channel in chosen))
    return Layer(layer.name, "gather_channels", attributes, first.inputs, layer.outputs)


def _after_concat(rewriter: Rewriter, gather: Layer) -> Layer:
    """Reads what a concatenation along the channels joins instead of what it writes."""
    concat = rewriter.producer(gather.inputs[0], "concat")
    if concat is None or concat.attributes.axis != 1:
        return gather
    origins = [
        (number, channel)
        for number, name in enumerate(concat.inputs)
        for channel in range(rewriter.tensors[name].shape[1])
    ]
    sources = tuple(origins[channel] for _, channel in gather.attributes.sources)
    return _selection(gather, concat.inputs, sources)


def _before_slices(rewriter: Rewriter, gather: Layer) -> None:
    """If only slices along the channels read the selection, each of them selects for itself."""
    tensor = gather.outputs[0]
    shape = rewriter.tensors[tensor].shape
    readers = rewriter.readers(tensor)
    if tensor in rewriter.outputs or not readers:
        return
    for reader in readers:
        if reader.kind != "slice":
            return
        index = reader.attributes.index
        if any(len(range(*index[axis].indices(shape[axis]))) != shape[axis] for axis in (0, 2, 3)):
            return
    for reader in readers:
        sources = gather.attributes.sources[reader.attributes.index[1]]
        rewriter.replace(reader, _selection(reader, gather.inputs, sources))


def _selection(layer: Layer, inputs: tuple[str, ...], sources: Sources) -> Layer:
    """A selection that reads only the tensors that it needs, each once."""
    names = list(dict.fromkeys(inputs[number] for number, _ in sources))
    renumbered = tuple((names.index(inputs[number]), channel) for number, channel in sources)
    return Layer(layer.name, "gather_channels", GatherChannelsAttributes(renumbered), tuple(names), layer.outputs)
