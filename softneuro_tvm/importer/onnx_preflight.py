"""Checks and completes an ONNX model before TVM sees it: operators, node names, input shapes. Needs onnx only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import onnx
import onnx.inliner

from softneuro_tvm.errors import DynamicShapeError, ModelError, UnsupportedOperatorError
from softneuro_tvm.importer.onnx_file import subgraphs

_DOMAINS = ("", "ai.onnx", "com.microsoft")
"""Operator sets that TVM's front end knows; it would read a namesake of another domain as one of these."""

_HANDLED_ELSEWHERE = ("If", "Constant")

InputShapes = Mapping[str, Sequence[int]]


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its own functions written out."""
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def name_nodes(graph: onnx.GraphProto) -> None:
    """Gives every node a unique name: its own, or operator type and first output."""
    taken: set[str] = set()
    for node in _nodes(graph):
        first_output = next((output for output in node.output if output), "")
        base = node.name or f"{node.op_type}_{first_output}"
        name, count = base, 1
        while name in taken:
            name, count = f"{base}_{count}", count + 1
        taken.add(name)
        node.name = name


def check_operators(graph: onnx.GraphProto, supported: Collection[str]) -> None:
    """Looks for operators that the front end does not know, in subgraphs too.

    Args:
        graph: With named nodes.
        supported: Operator types of the front end.

    Raises:
        UnsupportedOperatorError: lists all of them with their nodes.
    """
    unknown = []
    for node in _nodes(graph):
        if node.domain not in _DOMAINS:
            unknown.append((f"{node.domain}::{node.op_type}", node.name))
        elif node.op_type not in supported and node.op_type not in _HANDLED_ELSEWHERE:
            unknown.append((node.op_type, node.name))
    if unknown:
        raise UnsupportedOperatorError(unknown)


def fix_input_shapes(graph: onnx.GraphProto, input_shapes: InputShapes) -> None:
    """Writes the given shapes into the graph's inputs and makes sure that every extent is a number.

    A named dimension that one given shape settles is settled in all inputs. An optional tensor is taken as given.

    Raises:
        ModelError: an input name that does not exist, a wrong rank, an input that is no tensor.
        DynamicShapeError: an extent without a value.
    """
    constants = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in constants}
    unknown = [name for name in input_shapes if name not in inputs]
    if unknown:
        raise ModelError(f"there is no input {unknown[0]!r}; the model's inputs are {', '.join(map(repr, inputs))}")
    for value in inputs.values():
        if value.type.HasField("optional_type") and value.type.optional_type.elem_type.HasField("tensor_type"):
            present = onnx.TypeProto()
            present.CopyFrom(value.type.optional_type.elem_type)
            value.type.CopyFrom(present)
        if not value.type.HasField("tensor_type"):
            raise ModelError(f"input {value.name!r} is a {value.type.WhichOneof('value')}; only tensors are supported")
    named: dict[str, int] = {}
    for name, shape in input_shapes.items():
        named |= _write_shape(inputs[name], shape)
    open_axes: dict[str, list[str]] = {}
    for name, value in inputs.items():
        kind = value.type.tensor_type
        if not kind.HasField("shape"):
            open_axes[name] = ["every axis (its rank is unknown)"]
        for axis, dim in enumerate(kind.shape.dim):
            if dim.dim_param in named:
                dim.dim_value = named[dim.dim_param]
            if not dim.HasField("dim_value") or dim.dim_value < 0:
                open_axes.setdefault(name, []).append(f"{axis} ({dim.dim_param})" if dim.dim_param else str(axis))
    if open_axes:
        listed = "\n".join(f"  input {name!r}, axis {', '.join(axes)}" for name, axes in open_axes.items())
        raise DynamicShapeError(
            f"extents without a value:\n{listed}\nRoutines are chosen for fixed shapes; give them, for example "
            f"--input-shapes {_remedy(graph, list(open_axes))}"
        )
    del graph.value_info[:]  # inferred for other extents, perhaps


def empty_inputs(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs that have no elements, by name."""
    shapes = {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in graph.input}
    return {name: shape for name, shape in shapes.items() if 0 in shape}


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)


def _write_shape(value: onnx.ValueInfoProto, shape: Sequence[int]) -> dict[str, int]:
    """Sets an input's shape and returns the extents of its named dimensions."""
    kind = value.type.tensor_type
    if any(extent < 1 for extent in shape):
        raise ModelError(f"input {value.name!r} cannot have the shape {list(shape)}; extents are 1 or more")
    if not kind.HasField("shape"):
        kind.shape.SetInParent()
        for _ in shape:
            kind.shape.dim.add()
    if len(shape) != len(kind.shape.dim):
        raise ModelError(
            f"input {value.name!r} has {len(kind.shape.dim)} axes, but the shape {list(shape)} has {len(shape)}"
        )
    named = {}
    for dim, extent in zip(kind.shape.dim, shape, strict=True):
        if dim.dim_param:
            named[dim.dim_param] = extent
        dim.dim_value = extent
    return named


def _remedy(graph: onnx.GraphProto, names: Sequence[str]) -> str:
    """Example of the option's value: known extents as they are, 1 for the others."""
    values = {value.name: value for value in graph.input}
    shown = []
    for name in names:
        kind = values[name].type.tensor_type
        extents = [max(dim.dim_value, 1) for dim in kind.shape.dim] if kind.HasField("shape") else [1, 3, 224, 224]
        shown.append(f"{name}:[{','.join(map(str, extents))}]")
    return f'"{",".join(shown)}"'
