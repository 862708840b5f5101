"""Layers with many zero weights: the pass that marks them, samples of their density, keys of plain layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from softneuro_tvm.activations import Activation
from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.passes.sparse_weights import mark_sparse_weights
from softneuro_tvm.layers._sparsity import DENSITIES, density_of, most_weights
from softneuro_tvm.layers.conv2d import Conv2dAttributes, SparseConv2dAttributes
from softneuro_tvm.layers.dense import DenseAttributes, SparseDenseAttributes
from softneuro_tvm.registry import layer_kind


def one_layer(kind: str, attributes: Any, x: tuple[int, ...], weight: np.ndarray) -> Graph:
    weights = {"weight": weight, "bias": np.zeros(weight.shape[0], "float32")}
    types = {key: TensorType(value.shape) for key, value in weights.items()}
    y = layer_kind(kind).output_types(attributes, [TensorType(x)], types)[0]
    return Graph(
        (Layer("layer", kind, attributes, ("x",), ("y",), weights),), {"x": TensorType(x), "y": y}, ("x",), ("y",)
    )


def with_zeros(shape: tuple[int, ...], kept: int) -> np.ndarray:
    weight = np.zeros(shape, "float32")
    weight.ravel()[np.random.default_rng(0).permutation(weight.size)[:kept]] = 1.5
    return weight


@pytest.mark.parametrize(("kept", "density"), [(0, 0.05), (5, 0.05), (6, 0.1), (20, 0.2), (40, 0.4), (41, None)])
def test_density_is_rounded_up(kept: int, density: float | None) -> None:
    assert density_of(with_zeros((10, 10), kept)) == density


def test_sparse_layers_are_marked_and_keep_their_other_attributes() -> None:
    relu = Activation("relu")
    graph = one_layer("conv2d", Conv2dAttributes(activation=relu), (1, 20, 8, 8), with_zeros((30, 20, 1, 1), 60))
    marked = mark_sparse_weights(graph)
    assert marked.layers[0].attributes == SparseConv2dAttributes(0.1, activation=relu)
    assert marked.layers[0].weights is graph.layers[0].weights
    assert mark_sparse_weights(marked).layers[0].attributes == marked.layers[0].attributes
    dense = mark_sparse_weights(one_layer("dense", DenseAttributes(relu), (4, 20), with_zeros((30, 20), 61)))
    assert dense.layers[0].attributes == SparseDenseAttributes(0.15, relu)


@pytest.mark.parametrize(
    ("kind", "attributes", "x", "weight"),
    [
        ("dense", DenseAttributes(), (4, 20), with_zeros((30, 20), 241)),
        ("conv2d", Conv2dAttributes(), (1, 4, 8, 8), with_zeros((6, 4, 3, 3), 2)),
        ("conv2d", Conv2dAttributes((2, 2)), (1, 4, 8, 8), with_zeros((6, 4, 1, 1), 2)),
        ("conv2d", Conv2dAttributes(groups=2), (1, 8, 8, 8), with_zeros((6, 4, 1, 1), 2)),
    ],
)
def test_other_layers_stay_as_they_are(kind: str, attributes: Any, x: tuple[int, ...], weight: np.ndarray) -> None:
    graph = one_layer(kind, attributes, x, weight)
    assert mark_sparse_weights(graph).layers[0].attributes is attributes


def test_keys_of_plain_layers_do_not_mention_density() -> None:
    plain = one_layer("dense", DenseAttributes(), (4, 20), with_zeros((30, 20), 30))
    before, after = (graph.workloads["layer"] for graph in (plain, mark_sparse_weights(plain)))
    assert "density" not in before.json and '"density":0.05' in after.json
    assert dataclasses.asdict(before.attributes).items() <= dataclasses.asdict(after.attributes).items()


@pytest.mark.parametrize("density", DENSITIES)
def test_samples_are_as_dense_as_their_workload_says(density: float) -> None:
    weights = {"weight": TensorType((48, 40)), "bias": TensorType((48,))}
    workload = layer_kind("dense").workload(SparseDenseAttributes(density), [TensorType((3, 40))], weights)
    _, drawn = layer_kind("dense").sample(workload)
    assert np.count_nonzero(drawn["weight"]) == most_weights((48, 40), density)
    assert density_of(drawn["weight"]) == density
    assert np.count_nonzero(drawn["bias"]) == 48
