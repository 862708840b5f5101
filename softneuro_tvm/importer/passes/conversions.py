"""Layers that only move elements, or choose among them, work on the integers of a quantised model themselves."""

from __future__ import annotations

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.rewriter import Rewriter

_MOVERS = ("reshape", "transpose", "slice", "concat", "pool2d")


def move_conversions(graph: Graph) -> Graph:
    """Puts conversions to floats behind such layers; conversions to integers before those that join different scales.

    Both leave the integers as they are: what is moved is equal, and dequantisation keeps the order of what is compared.
    Conversions that undo one another disappear.
    """
    rewriter = Rewriter(graph)
    for layer in rewriter.layers(*_MOVERS, "quantized_elementwise"):
        found = rewriter.current(layer)
        if found is None or (found.kind == "pool2d" and found.attributes.mode != "max"):
            continue
        if found.kind == "quantized_elementwise":
            _drop(rewriter, found)
            continue
        sources = [dequantizer(rewriter, tensor) for tensor in found.inputs]
        given = [source for source in sources if source is not None]
        if len(given) < len(sources):
            continue
        if len({(source.attributes, rewriter.tensors[source.inputs[0]].dtype) for source in given}) == 1:
            _sink(rewriter, found, given)
        else:
            _hoist(rewriter, found)
    return rewriter.graph()


def dequantizer(rewriter: Rewriter, tensor: str) -> Layer | None:
    """The layer that does nothing but convert integers to a tensor."""
    layer = rewriter.producer(tensor, "quantized_elementwise")
    return layer if layer and not layer.attributes.expression and layer.attributes.output is None else None


def is_quantizer(layer: Layer) -> bool:
    """True if a layer does nothing but convert floats to integers."""
    attributes = layer.attributes
    return layer.kind == "quantized_elementwise" and not attributes.expression and attributes.inputs == (None,)


def _drop(rewriter: Rewriter, layer: Layer) -> None:
    """``quantize(dequantize(q))`` becomes ``q`` if both are of one scale."""
    source = dequantizer(rewriter, layer.inputs[0]) if is_quantizer(layer) else None
    if source is not None and _undoes(rewriter, layer, source):
        rewriter.redirect(layer.outputs[0], source.inputs[0])


def _undoes(rewriter: Rewriter, quantizer: Layer, source: Layer) -> bool:
    """True if a conversion to integers gives those that another one reads."""
    same_type = rewriter.tensors[source.inputs[0]].dtype == quantizer.attributes.output_dtype
    return bool(same_type and source.attributes.inputs == (quantizer.attributes.output,))


def _sink(rewriter: Rewriter, layer: Layer, sources: list[Layer]) -> None:
    """``layer(dequantize(q))`` becomes ``dequantize(layer(q))``."""
    moved = rewriter.fresh_name(f"{layer.outputs[0]}_integers")
    name = rewriter.fresh_name(f"{layer.name}_dequantize")
    integers = _on_integers(layer, tuple(source.inputs[0] for source in sources), moved)
    conversion = Layer(name, sources[0].kind, sources[0].attributes, (moved,), layer.outputs)
    dtype = rewriter.tensors[sources[0].inputs[0]].dtype
    types = {moved: TensorType(rewriter.tensors[layer.outputs[0]].shape, dtype)}
    rewriter.replace(layer, integers, conversion, types=types)


def _hoist(rewriter: Rewriter, layer: Layer) -> None:
    """``quantize(layer(x, y))`` becomes ``layer(quantize(x), quantize(y))``, if nobody reads the floats."""
    readers = rewriter.readers(layer.outputs[0])
    is_read_once = readers and layer.outputs[0] not in rewriter.outputs and all(map(is_quantizer, readers))
    if not is_read_once or len({reader.attributes for reader in readers}) > 1:
        return
    attributes, types, conversions = readers[0].attributes, dict[str, TensorType](), list[Layer]()
    inputs = list[str]()
    for tensor in layer.inputs:
        source = dequantizer(rewriter, tensor)
        if source and _undoes(rewriter, readers[0], source):
            inputs.append(source.inputs[0])
            continue
        name = rewriter.fresh_name(f"{layer.name}_quantize{len(inputs)}")
        conversions.append(Layer(name, readers[0].kind, attributes, (tensor,), (name,)))
        types[name] = TensorType(rewriter.tensors[tensor].shape, attributes.output_dtype)
        inputs.append(name)
    moved = readers[0].outputs[0]
    for reader in readers:
        rewriter.replace(reader)
    rewriter.replace(layer, *conversions, _on_integers(layer, tuple(inputs), moved), types=types)
    for reader in readers[1:]:
        rewriter.redirect(reader.outputs[0], moved)


def _on_integers(layer: Layer, inputs: tuple[str, ...], output: str) -> Layer:
    kind = "quantized_max_pool2d" if layer.kind == "pool2d" else layer.kind
    return Layer(layer.name, kind, layer.attributes, inputs, (output,), layer.weights)
