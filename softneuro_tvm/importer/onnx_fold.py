"""Computes what an ONNX model computes from constants and shapes alone, so that the front end sees numbers."""

from __future__ import annotations

import logging

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from softneuro_tvm.importer.onnx_file import subgraphs, without_large_weights

logger = logging.getLogger(__name__)

_SMALL_ELEMENTS = 4096
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")


def fold_constants(model: onnx.ModelProto) -> None:
    """Replaces nodes with small constant results by initialisers: arithmetic on shapes, ranges, masks.

    Args:
        model: Checked, with fixed input shapes; nodes at the top are folded, branches stay.
    """
    shapes = _shapes(model)
    known = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if np.prod(t.dims) <= _SMALL_ELEMENTS}
    returned = {output.name for output in model.graph.output}
    kept = []
    for node in model.graph.node:
        values = _values(node, known, shapes, model)
        if values is None or returned & set(node.output):
            kept.append(node)
            continue
        for name, value in zip(node.output, values, strict=True):
            known[name] = value
            model.graph.initializer.append(numpy_helper.from_array(value, name))
    if len(kept) < len(model.graph.node):
        del model.graph.node[:]
        model.graph.node.extend(kept)


def _values(
    node: onnx.NodeProto, known: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]], model: onnx.ModelProto
) -> list[np.ndarray] | None:
    """A node's results; None if they are not constant, not small, or not computable here."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _RANDOM or any(True for _ in subgraphs(node)):
        return None
    if node.op_type == "Shape" and node.input[0] in shapes:
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        part = shapes[node.input[0]][bounds.get("start", 0) : bounds.get("end")]
        return [np.array(part, np.int64)]
    inputs = [name for name in node.input if name]
    if not all(name in known for name in inputs):
        return None
    types = [onnx.helper.make_tensor_value_info(name, 0, None) for name in dict.fromkeys(inputs)]
    outputs = [onnx.helper.make_tensor_value_info(name, 0, None) for name in node.output]
    graph = onnx.helper.make_graph([node], "constant", types, outputs)
    single = onnx.helper.make_model(graph, opset_imports=model.opset_import)
    try:
        values = ReferenceEvaluator(single).run(None, {name: known[name] for name in inputs})
    except Exception as error:  # the evaluator covers less than the front end; what it cannot do stays in the model
        logger.debug("node %r stays: %r", node.name, error)
        return None
    is_small = all(isinstance(v, np.ndarray | np.generic) and v.size <= _SMALL_ELEMENTS for v in values)
    return [np.asarray(v) for v in values] if is_small and all(v.dtype.kind in "biuf" for v in values) else None


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors for which ONNX can infer them."""
    light = without_large_weights(model)
    for output in light.graph.output:
        output.type.tensor_type.ClearField("shape")  # perhaps meant for other input shapes
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        logger.debug("shapes stay unknown: %s", error)
        return {}
    found = {}
    for value in (*inferred.graph.input, *inferred.graph.value_info):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            found[value.name] = tuple(int(dim.dim_value) for dim in kind.shape.dim)
    return found
