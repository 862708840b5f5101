"""Layer normalisation that exporters write out becomes one layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.expressions import rebuilt, uses, without
from softneuro_tvm.importer.rewriter import Rewriter
from softneuro_tvm.layers.elementwise import Argument, Expression
from softneuro_tvm.layers.layer_norm import LayerNormAttributes


@dataclass(frozen=True)
class _Statistics:
    """What a layer normalises by: the tensors that hold ``x``, ``x - mean(x)`` and the deviation (or its inverse)."""

    source: str
    centred: str
    deviation: str
    is_inverse: bool
    axes: tuple[int, ...]
    epsilon: float


def recognise_layer_norms(graph: Graph) -> Graph:
    """``(x - mean(x)) / sqrt(mean((x - mean(x)) ** 2) + epsilon) * gamma + beta`` over trailing axes -> layer_norm."""
    rewriter = Rewriter(graph)
    for layer in rewriter.layers("elementwise"):
        found = rewriter.current(layer)
        statistics = _statistics(rewriter, found) if found else None
        if found and statistics:
            _normalise(rewriter, found, statistics)
    return rewriter.graph()


def _statistics(rewriter: Rewriter, layer: Layer) -> _Statistics | None:
    """Finds a deviation among the layer's inputs, and that what it belongs to is among them too."""
    for deviation in layer.inputs:
        root = rewriter.producer(deviation, "elementwise")
        variance = rewriter.producer(root.inputs[0], "reduction") if root else None
        square = rewriter.producer(variance.inputs[0], "elementwise") if variance else None
        centre = rewriter.producer(square.inputs[0], "elementwise") if square else None
        mean = rewriter.producer(centre.inputs[-1], "reduction") if centre else None
        if not (root and variance and square and centre and mean):
            continue
        kind, epsilon = _root(root.attributes.expression)
        axes = variance.attributes.axes
        rank = rewriter.tensors[centre.outputs[0]].rank
        if (
            kind
            and square.attributes.expression in ((("square", ("x0",)),), (("mul", ("x0", "x0")),))
            and centre.attributes.expression == (("sub", ("x0", "x1")),)
            and centre.inputs == (mean.inputs[0], mean.outputs[0])
            and mean.attributes == variance.attributes
            and (variance.attributes.operation, variance.attributes.keepdims) == ("mean", True)
            and axes == tuple(range(rank - len(axes), rank))
            and centre.outputs[0] in layer.inputs
        ):
            return _Statistics(centre.inputs[0], centre.outputs[0], deviation, kind == "rsqrt", axes, epsilon)
    return None


def _root(expression: Expression) -> tuple[str, float]:
    """``sqrt`` or ``rsqrt`` and what is added before; an empty name if the expression is something else."""
    if len(expression) != 2 or expression[0][0] != "add" or expression[1][0] not in ("sqrt", "rsqrt"):
        return "", 0.0
    numbers = [arg for arg in expression[0][1] if isinstance(arg, float)]
    return (expression[1][0], numbers[0]) if len(numbers) == 1 else ("", 0.0)


def _normalise(rewriter: Rewriter, layer: Layer, statistics: _Statistics) -> None:
    """Takes quotient, gamma and beta out of the layer."""
    expression = layer.attributes.expression
    centred, deviation = (f"x{layer.inputs.index(name)}" for name in (statistics.centred, statistics.deviation))
    places = uses(expression, centred)
    if len(places) != 1 or uses(expression, deviation) != places:
        return
    operator, args = expression[places[0]]
    if operator != ("mul" if statistics.is_inverse else "div") or (operator == "div" and args[0] != centred):
        return
    data = rewriter.tensors[statistics.source]
    shape = tuple(data.shape[axis] for axis in statistics.axes)
    gamma, beta = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    for name in ("mul", "add"):
        place, weight = _next(layer, places[-1], name, shape)
        if weight is None:
            continue
        places.append(place)
        gamma, beta = (weight, beta) if name == "mul" else (gamma, weight)
    is_whole = places[-1] == len(expression) - 1
    name = layer.name if is_whole else rewriter.fresh_name(f"{layer.name}_norm")
    output = layer.outputs[0] if is_whole else name
    attributes = LayerNormAttributes(statistics.axes, statistics.epsilon)
    norm = Layer(name, "layer_norm", attributes, (statistics.source,), (output,), {"gamma": gamma, "beta": beta})
    if is_whole:
        rewriter.replace(layer, norm)
        return
    names: dict[str, Argument] = {f"t{places[-1]}": f"x{len(layer.inputs)}"}
    remaining = rebuilt(layer, without(expression, places, names), (*layer.inputs, name), layer.weights)
    rewriter.replace(layer, norm, remaining, types={name: data})


def _next(layer: Layer, place: int, operator: str, shape: tuple[int, ...]) -> tuple[int, np.ndarray | None]:
    """The only use of an entry, if it is an operator with a constant of the normalised shape."""
    found = uses(layer.attributes.expression, f"t{place}")
    if len(found) != 1 or layer.attributes.expression[found[0]][0] != operator:
        return place, None
    for arg in layer.attributes.expression[found[0]][1]:
        weight = layer.weights.get(arg) if isinstance(arg, str) else None
        if weight is not None and all(n == 1 for n in weight.shape[: -len(shape)]):
            trailing = weight.reshape(weight.shape[-len(shape) :])
            return found[0], np.ascontiguousarray(np.broadcast_to(trailing, shape))
    return place, None
