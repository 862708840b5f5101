"""Reads ONNX files: one clear error for everything that can be wrong with a file. Needs onnx only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from softneuro_tvm.errors import ModelError

_LARGE_BYTES = 1 << 16
_NOT_FATAL = (
    "No Op registered for",
    "No opset import for domain",
    "is higher than the checker",
)
"""What the checker complains about although TVM may convert the model: things newer than onnx."""


def load_onnx(path: Path) -> onnx.ModelProto:
    """Reads a model with its external data.

    Raises:
        ModelError: the file is missing, empty, corrupt, or refers to data that is missing or outside its folder.
    """
    if not path.exists():
        raise ModelError(f"model file {str(path)!r} does not exist; check the path, or name a network as zoo:NAME")
    if path.is_dir():
        raise ModelError(f"{str(path)!r} is a folder; give the .onnx file in it")
    if path.stat().st_size == 0:
        raise ModelError(f"model file {str(path)!r} is empty; export the model again")
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except (DecodeError, UnicodeDecodeError, ValueError) as error:
        raise ModelError(
            f"model file {str(path)!r} is not an ONNX model, or is damaged or cut off ({_first_line(error)}); "
            "export or copy it again; models in other formats must be exported to ONNX first"
        ) from error
    except OSError as error:
        raise ModelError(f"model file {str(path)!r} cannot be read: {error}") from error
    _load_external_data(model, path)
    return model


def check_not_external(model: onnx.ModelProto, source: str) -> None:
    """Refuses a model in memory whose weights were left on disk."""
    if any(_is_external(tensor) for tensor in _tensors(model.graph)):
        raise ModelError(f"{source} keeps its weights in other files that are not loaded; give the path of the file")


def check_structure(model: onnx.ModelProto, source: str) -> None:
    """Runs ONNX's checker.

    Args:
        model: What to check.
        source: What to call it in messages.

    Raises:
        ModelError: the model is malformed, or holds tensors whose data was never loaded.
    """
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelError(f"{source} holds no graph; it is damaged, or not an ONNX model: export it again")
    if any(_is_external(tensor) for tensor in _tensors(model.graph)):
        raise ModelError(f"{source} keeps its weights in other files that are not loaded; give the path of the file")
    light = without_large_weights(model)
    for value in (*light.graph.input, *light.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()  # unknown ranks are no fault of the structure
    try:
        onnx.checker.check_model(light)
    except onnx.checker.ValidationError as error:
        if any(text in str(error) for text in _NOT_FATAL):
            return
        raise ModelError(f"{source} is not a valid ONNX model: {str(error).strip()}; export it again") from error


def without_large_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with large constants as inputs: onnx's tools copy everything, and take at most 2 GiB."""
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    for field in ("node", "input", "output", "value_info", "quantization_annotation", "sparse_initializer"):
        getattr(graph, field).extend(getattr(model.graph, field))
    graph.name = model.graph.name
    known = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) <= _LARGE_BYTES:
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            shape = list(tensor.dims)
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, shape))
    return light


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes: branches of an If, body of a Loop."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for inner in subgraphs(node):
            yield from _tensors(inner)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    folder = path.resolve().parent
    external = [tensor for tensor in _tensors(model.graph) if _is_external(tensor)]
    for tensor in external:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        data = (folder / location).resolve()
        where = f"{str(path)!r}: the data of tensor {tensor.name!r} lies in {location!r}"
        if not location or not data.is_relative_to(folder):
            raise ModelError(f"{where}, outside the model's folder; refused: keep model and data in one folder")
        if not data.is_file():
            raise ModelError(f"{where}, which does not exist; copy that file next to the model")
        needed = int(entries.get("offset") or 0) + int(entries.get("length") or 0)
        if data.stat().st_size < needed:
            raise ModelError(
                f"{where}, which has {data.stat().st_size} of at least {needed} bytes; it is cut off: copy it again"
            )
    if external:
        try:
            onnx.load_external_data_for_model(model, str(folder))
        except (onnx.checker.ValidationError, OSError, ValueError) as error:
            raise ModelError(f"{str(path)!r}: external data cannot be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
