"""Graphs written by hand, and the comparison of two graphs by what they compute."""

from __future__ import annotations

from typing import Any

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.layers.concat import ConcatAttributes, InPlaceConcatAttributes
from softneuro_tvm.layers.conv2d import Conv2dAttributes
from softneuro_tvm.layers.conv_transpose2d import ConvTranspose2dAttributes
from softneuro_tvm.layers.dense import DenseAttributes
from softneuro_tvm.layers.elementwise import ElementwiseAttributes
from softneuro_tvm.layers.reduction import ReductionAttributes
from softneuro_tvm.layers.reshape import ReshapeAttributes
from softneuro_tvm.layers.slice import InPlaceSliceAttributes, SliceAttributes
from softneuro_tvm.layers.transpose import TransposeAttributes
from softneuro_tvm.reference import evaluate
from softneuro_tvm.registry import layer_kind


class Builder:
    """Writes a graph layer by layer; types come from the layer kinds."""

    def __init__(self, **inputs: tuple[int, ...]) -> None:
        self.rng = np.random.default_rng(0)
        self.inputs = tuple(inputs)
        self.tensors = {name: TensorType(shape) for name, shape in inputs.items()}
        self.layers: list[Layer] = []

    def add(self, name: str, attributes: Any, *inputs: str, **weights: np.ndarray) -> str:
        kind = {
            ConcatAttributes: "concat",
            Conv2dAttributes: "conv2d",
            ConvTranspose2dAttributes: "conv_transpose2d",
            DenseAttributes: "dense",
            ElementwiseAttributes: "elementwise",
            InPlaceConcatAttributes: "concat",
            InPlaceSliceAttributes: "slice",
            ReductionAttributes: "reduction",
            ReshapeAttributes: "reshape",
            SliceAttributes: "slice",
            TransposeAttributes: "transpose",
        }[type(attributes)]
        types = {key: TensorType(value.shape) for key, value in weights.items()}
        found = layer_kind(kind).output_types(attributes, [self.tensors[i] for i in inputs], types)
        self.tensors[name] = found[0]
        self.layers.append(Layer(name, kind, attributes, inputs, (name,), weights))
        return name

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(np.float32)

    def conv(self, name: str, x: str, channels: int = 6, **changes: Any) -> str:
        weight = self.normal(channels, self.tensors[x].shape[1], 3, 3)
        attributes = Conv2dAttributes(padding=(1, 1, 1, 1), **changes)
        return self.add(name, attributes, x, weight=weight, bias=self.normal(channels))

    def each(self, name: str, expression: Any, *inputs: str, **weights: np.ndarray) -> str:
        return self.add(name, ElementwiseAttributes(tuple(expression)), *inputs, **weights)

    def graph(self, *outputs: str) -> Graph:
        return Graph(tuple(self.layers), self.tensors, self.inputs, outputs)


def kinds(graph: Graph) -> list[str]:
    return sorted(layer.kind for layer in graph.layers)


def assert_same(before: Graph, after: Graph) -> None:
    rng = np.random.default_rng(1)
    inputs = {name: rng.standard_normal(before.tensors[name].shape) for name in before.inputs}
    wanted = [*evaluate(before, inputs).values()]
    found = [*evaluate(after, inputs).values()]
    assert before.output_names == after.output_names
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4 * np.abs(a).max())
