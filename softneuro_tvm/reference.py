"""Evaluates a graph layer by layer in numpy: the meaning of a `Graph`, against which everything else is checked."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.registry import layer_kind


def evaluate(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Computes a graph's outputs.

    Floating-point layers run in float64, so that what remains is the error of what is compared with this; layers that
    fall through to TVM run in their own types, compiled plainly.

    Args:
        graph: Any graph.
        inputs: Arrays by input name.

    Returns:
        Arrays by the model's names of its outputs, in the outputs' types.
    """
    values = {name: _widened(np.asarray(inputs[name])) for name in graph.inputs}
    last_use = {tensor: index for index, layer in enumerate(graph.layers) for tensor in layer.inputs}
    for index, layer in enumerate(graph.layers):
        arguments = [values[tensor] for tensor in layer.inputs]
        values |= zip(layer.outputs, _computed(graph, layer, arguments), strict=True)
        for tensor in set(layer.inputs):
            if last_use[tensor] == index and tensor not in graph.outputs:
                del values[tensor]
    return {
        name: values[tensor].astype(graph.tensors[tensor].dtype)
        for name, tensor in zip(graph.output_names, graph.outputs, strict=True)
    }


def _computed(graph: Graph, layer: Layer, arguments: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    kind = layer_kind(layer.kind)
    if kind.has_reference:
        weights = {name: _widened(weight) for name, weight in layer.weights.items()}
        return tuple(_widened(result) for result in kind.reference(layer.attributes, arguments, weights))
    types = [graph.tensors[tensor].dtype for tensor in layer.inputs]
    exact = [argument.astype(dtype) for argument, dtype in zip(arguments, types, strict=True)]
    constants = [layer.weights[f"w{i}"] for i in range(len(layer.weights))]
    return tuple(_widened(result) for result in _run_with_tvm(layer.attributes.module, [*exact, *constants]))


def _widened(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float64 if array.dtype in (np.float16, np.float32) else None)


def _run_with_tvm(module: str, arguments: list[np.ndarray]) -> list[np.ndarray]:
    import tvm

    results = _compiled(module)(*[tvm.runtime.tensor(np.asarray(argument, order="C")) for argument in arguments])
    fields = [results] if isinstance(results, tvm.runtime.Tensor) else list(results)
    return [field.numpy() for field in fields]


@lru_cache(maxsize=64)
def _compiled(module: str) -> Any:
    """The function ``main`` of a module in JSON, compiled for the host without tuning."""
    import tvm
    from tvm import relax

    executable = relax.build(tvm.ir.load_json(module), tvm.target.Target({"kind": "llvm"}))
    return relax.VirtualMachine(executable, tvm.cpu())["main"]


def sample_inputs(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs of a graph: normal for floats, 0 or 1 for integers and booleans."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        if np.dtype(tensor.dtype).kind == "f":
            arrays[name] = np.asarray(rng.standard_normal(tensor.shape)).astype(tensor.dtype)
        else:
            arrays[name] = np.asarray(rng.integers(0, 2, tensor.shape)).astype(tensor.dtype)
    return arrays
