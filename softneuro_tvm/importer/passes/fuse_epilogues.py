"""Arithmetic after a convolution or a dense layer becomes part of it: scale, bias, residual add, activation."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np

from softneuro_tvm.activations import IDENTITY, Activation
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.expressions import rebuilt, uses, without
from softneuro_tvm.importer.rewriter import Rewriter
from softneuro_tvm.layers._convolution import Residual
from softneuro_tvm.layers.elementwise import Argument

_CHANNEL_AXIS = {"conv2d": 1, "conv_transpose2d": 1, "dense": -1}
_STAGES: tuple[Residual, ...] = (False, True, "after")


def fuse_epilogues(graph: Graph) -> Graph:
    """Moves operators from elementwise layers into the convolutions and dense layers that they read.

    An operator moves if it is the only use of the layer's output; so a tensor that is added cannot depend on that
    layer. Scales, offsets and activations move first; a residual add goes to the layer that comes last in the graph,
    to one without an activation if it can, because an activation may follow there.
    """
    rewriter = Rewriter(graph)
    position = {layer.name: index for index, layer in enumerate(graph.layers)}
    for layer in rewriter.layers("elementwise"):
        while (found := rewriter.current(layer)) is not None:
            if not any(_fuse(rewriter, found, residual, position) for residual in _STAGES):
                break
    return rewriter.graph()


def _fuse(rewriter: Rewriter, layer: Layer, residual: Residual, position: dict[str, int]) -> bool:
    """Moves one operator; True if there was one.

    Args:
        rewriter: The graph.
        layer: Elementwise layer.
        residual: Which residual adds to look for; False for everything else.
        position: Order of the layers.
    """
    candidates = []
    for number, tensor in enumerate(layer.inputs):
        producer = rewriter.producer(tensor, *_CHANNEL_AXIS)
        is_same_shape = rewriter.tensors[tensor].shape == rewriter.tensors[layer.outputs[0]].shape
        if producer and rewriter.is_private(tensor) and is_same_shape and layer.inputs.count(tensor) == 1:
            candidates.append((position[producer.name], number, producer))
    for _, number, producer in sorted(candidates, key=lambda found: -found[0]):
        places = uses(layer.attributes.expression, f"x{number}")
        is_activated = producer.attributes.activation != IDENTITY
        if len(places) != 1 or is_activated != (residual == "after") or producer.attributes.residual == "after":
            continue
        operator, args = layer.attributes.expression[places[0]]
        if residual:
            fused = _with_residual(rewriter, producer, layer, operator, args, residual)
        else:
            fused = _with_operator(producer, layer, number, operator, args)
        if fused is not None:
            _replace(rewriter, producer, fused, layer, number, places[0])
            return True
    return False


def _replace(rewriter: Rewriter, producer: Layer, fused: Layer, layer: Layer, number: int, place: int) -> None:
    """Puts the fused layer in its place and takes the operator out of the elementwise layer."""
    rewriter.replace(producer, fused)
    expression = layer.attributes.expression
    if place == len(expression) - 1:
        rewriter.replace(layer)
        rewriter.redirect(layer.outputs[0], fused.outputs[0])
        return
    rest = without(expression, [place], {f"t{place}": f"x{number}"})
    rewriter.replace(layer, rebuilt(layer, rest, layer.inputs, layer.weights))


def _with_residual(
    rewriter: Rewriter, producer: Layer, layer: Layer, operator: str, args: tuple[Argument, ...], residual: Residual
) -> Layer | None:
    """The layer with a second input that is added before or after the activation."""
    if operator != "add" or producer.attributes.residual or not all(str(arg).startswith("x") for arg in args):
        return None
    tensors = [layer.inputs[int(str(arg)[1:])] for arg in args]
    other = tensors[1 - tensors.index(producer.outputs[0])]
    if rewriter.tensors[other] != rewriter.tensors[producer.outputs[0]]:
        return None
    attributes = replace(producer.attributes, residual=residual)
    return Layer(
        producer.name, producer.kind, attributes, (*producer.inputs, other), producer.outputs, producer.weights
    )


def _with_operator(
    producer: Layer, layer: Layer, number: int, operator: str, args: tuple[Argument, ...]
) -> Layer | None:
    """The layer followed by an operator with constants; None if the operator cannot be part of it."""
    weights = dict(producer.weights)
    channels = weights["bias"].size
    values = [None if arg == f"x{number}" else _per_channel(producer, layer, arg, channels) for arg in args]
    constants = [value for value in values if value is not None]
    if len(constants) != len(args) - 1:
        return None
    scaled = _scaled(operator, values)
    if scaled is not None:
        scale, offset = scaled
        is_scaled = bool(np.any(scale != 1))
        if is_scaled and producer.attributes.residual:
            return None
        if not (np.all(np.isfinite(scale)) and np.all(np.isfinite(offset))):
            return None
        if is_scaled:
            shape = (-1,) + (1,) * (weights["weight"].ndim - 1)
            weights["weight"] = (weights["weight"] * scale.reshape(shape)).astype(np.float32)
        weights["bias"] = (weights["bias"] * scale + offset).astype(np.float32)
        return Layer(producer.name, producer.kind, producer.attributes, producer.inputs, producer.outputs, weights)
    if operator not in Activation.names() or args[0] != f"x{number}":
        return None
    if operator == "prelu":
        weights["slope"] = constants[0].astype(np.float32)
        activation = Activation("prelu")
    elif all(isinstance(arg, float) for arg in args[1:]):
        activation = Activation(operator, *cast(tuple[float, ...], args[1:]))
    else:
        return None
    attributes = replace(producer.attributes, activation=activation)
    return Layer(producer.name, producer.kind, attributes, producer.inputs, producer.outputs, weights)


def _per_channel(producer: Layer, layer: Layer, arg: Argument, channels: int) -> np.ndarray | None:
    """A number or constant as one float64 value for each output channel; None if it is something else."""
    if isinstance(arg, float):
        return np.full(channels, arg)
    if not arg.startswith("w"):
        return None
    weight = layer.weights[arg]
    axis = _CHANNEL_AXIS[producer.kind] % weight.ndim
    if weight.size != weight.shape[axis] or weight.size not in (1, channels):
        return None
    return np.broadcast_to(weight.astype(np.float64).reshape(-1), channels)


def _scaled(operator: str, values: list[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and offset of an operator; ``None`` among the values stands for the layer's output."""
    if operator == "neg":
        return np.array([-1.0]), np.array([0.0])
    if len(values) != 2 or operator not in ("add", "sub", "mul", "div"):
        return None
    first, second = values
    one, zero = np.array([1.0]), np.array([0.0])
    if second is not None:
        return {
            "add": (one, second),
            "sub": (one, -second),
            "mul": (second, zero),
            "div": (1 / np.where(second == 0, np.nan, second), zero),
        }[operator]
    assert first is not None
    return {"add": (one, first), "sub": (-one, first), "mul": (first, zero)}.get(operator)
