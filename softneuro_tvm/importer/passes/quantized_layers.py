"""Layers between conversions from and to 8-bit integers compute with integers: convolutions, products, arithmetic."""

from __future__ import annotations

import numpy as np

from softneuro_tvm.activations import Activation
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.int8_weights import integer_rows
from softneuro_tvm.importer.passes.conversions import dequantizer, is_quantizer
from softneuro_tvm.importer.rewriter import Rewriter
from softneuro_tvm.layers._quantized import Quantization
from softneuro_tvm.layers.quantized_conv2d import QuantizedConv2dAttributes
from softneuro_tvm.layers.quantized_dense import QuantizedDenseAttributes
from softneuro_tvm.layers.quantized_elementwise import QuantizedElementwiseAttributes, has_vector_form

_SILENT = 2.0**-12
"""Multiplier of a channel whose weights are all zero: its bias is given in such parts of an output step."""


def form_quantized_layers(graph: Graph) -> Graph:
    """Joins conversions with the layers between them.

    A convolution or dense layer is joined if its weight is int8 integers times a scale for each output channel, its
    activation cuts off at most, and nobody else reads its floats; elementwise layers are joined whatever is around.
    """
    rewriter = Rewriter(graph)
    for layer in rewriter.layers("quantized_elementwise"):
        if is_quantizer(layer) and (current := rewriter.current(layer)) is not None:
            _join_producer(rewriter, current)
    for layer in rewriter.layers("elementwise", "quantized_elementwise"):
        _read_integers(rewriter, layer)
    return rewriter.graph()


def _join_producer(rewriter: Rewriter, layer: Layer) -> None:
    """Joins a conversion to integers with what computes the floats."""
    floats = layer.inputs[0]
    producer = rewriter.producer(floats, "conv2d", "dense", "elementwise")
    if producer is None or not rewriter.is_private(floats):
        return
    if producer.kind == "elementwise":
        joined = _elementwise(producer, layer)
    else:
        joined = _product(rewriter, producer, layer)
    if joined is not None:
        rewriter.replace(producer)
        rewriter.replace(layer, joined)


def _elementwise(producer: Layer, layer: Layer) -> Layer | None:
    """An elementwise layer that writes integers."""
    expression = producer.attributes.expression
    if not has_vector_form(expression):
        return None
    floats = (None,) * len(producer.inputs)
    attributes = QuantizedElementwiseAttributes(
        expression, floats, layer.attributes.output, layer.attributes.output_dtype
    )
    return Layer(producer.name, layer.kind, attributes, producer.inputs, layer.outputs, producer.weights)


def _product(rewriter: Rewriter, producer: Layer, layer: Layer) -> Layer | None:
    """A convolution or dense layer on integers; None if it cannot be one."""
    source = dequantizer(rewriter, producer.inputs[0])
    limits = _limits(producer.attributes.activation, layer)
    if source is None or limits is None or producer.attributes.residual:
        return None
    weights = _integer_weights(producer, source.attributes.inputs[0], layer.attributes.output)
    if weights is None:
        return None
    common = {
        "input_zero_point": source.attributes.inputs[0].zero_point,
        "output_zero_point": layer.attributes.output.zero_point,
        "low": limits[0],
        "high": limits[1],
        "output_dtype": layer.attributes.output_dtype,
    }
    if producer.kind == "conv2d":
        a = producer.attributes
        attributes: object = QuantizedConv2dAttributes(
            **common, strides=a.strides, padding=a.padding, dilation=a.dilation, groups=a.groups
        )
    else:
        attributes = QuantizedDenseAttributes(**common)
    return Layer(producer.name, f"quantized_{producer.kind}", attributes, source.inputs, layer.outputs, weights)


def _limits(activation: Activation, layer: Layer) -> tuple[int, int] | None:
    """Smallest and largest integer that an output can be; None if the activation does more than cut off."""
    quantization, limits = layer.attributes.output, np.iinfo(layer.attributes.output_dtype)
    bounds = {
        "identity": (-np.inf, np.inf),
        "relu": (0.0, np.inf),
        "clip": (activation.alpha, activation.beta),
    }.get(activation.name)
    if bounds is None:
        return None
    steps = np.rint(np.array(bounds) / quantization.scale) + quantization.zero_point
    low, high = np.clip(steps, limits.min, limits.max)
    return int(low), int(high)


def _integer_weights(producer: Layer, source: Quantization, target: Quantization) -> dict[str, np.ndarray] | None:
    """Weight, bias and multiplier; None if the weight is on no int8 grid, or sums may not fit into 32 bits."""
    found = integer_rows(producer.weights["weight"])
    if found is None:
        return None
    weight, scales = found
    is_silent = scales == 0
    multiplier = np.float32(source.scale) * scales / np.float32(target.scale)
    multiplier = np.where(is_silent, np.float32(_SILENT), multiplier).astype(np.float32)
    step = np.where(is_silent, _SILENT * target.scale, source.scale * scales.astype(np.float64))
    bias = np.rint(producer.weights["bias"].astype(np.float64) / step)
    sums = 255.0 * np.abs(weight.astype(np.float64)).reshape(len(weight), -1).sum(axis=1) + np.abs(bias)
    if not np.all(np.isfinite(multiplier)) or not np.all(sums < 2**31):
        return None
    return {"weight": weight, "bias": bias.astype(np.int32), "multiplier": multiplier}


def _read_integers(rewriter: Rewriter, layer: Layer) -> None:
    """Makes an elementwise layer read integers where these are all that a conversion does."""
    current = rewriter.current(layer)
    if current is None or not has_vector_form(current.attributes.expression):
        return
    attributes = current.attributes
    if current.kind == "elementwise":
        floats = (None,) * len(current.inputs)
        attributes = QuantizedElementwiseAttributes(attributes.expression, floats, None, "float32")
    sources = [dequantizer(rewriter, tensor) for tensor in current.inputs]
    if not any(sources):
        return
    inputs = tuple(
        source.inputs[0] if source else tensor for source, tensor in zip(sources, current.inputs, strict=True)
    )
    quantizations = tuple(
        source.attributes.inputs[0] if source else own for source, own in zip(sources, attributes.inputs, strict=True)
    )
    joined = QuantizedElementwiseAttributes(
        attributes.expression, quantizations, attributes.output, attributes.output_dtype
    )
    kind = "quantized_elementwise"
    rewriter.replace(current, Layer(current.name, kind, joined, inputs, current.outputs, current.weights))
