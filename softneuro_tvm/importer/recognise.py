"""Decides which Relax bindings become layers, by asking the layer kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from softneuro_tvm.formats import TensorType
from softneuro_tvm.importer.nodes import Part
from softneuro_tvm.importer.relax_module import array_of, static_type
from softneuro_tvm.layer_kind import LayerKind, Operand
from softneuro_tvm.registry import layer_kind, layer_kinds

Resolve = Callable[[Any], Any]


@dataclass(frozen=True)
class _ZeroPad:
    """A tensor that is another one with zeros around its maps: (top, left, bottom, right)."""

    source: Any
    widths: tuple[int, int, int, int]


class Recogniser:
    """Looks at bindings in order; remembers splits, batch normalisations and paddings for their readers."""

    def __init__(self) -> None:
        self._tuples: dict[Any, list[Part | None]] = {}
        self._pads: dict[Any, _ZeroPad] = {}
        self._kinds: dict[str, list[LayerKind]] = {}
        for kind in layer_kinds().values():
            for operator in kind.relax_operators:
                self._kinds.setdefault(operator, []).append(kind)

    def part(self, binding: Any, value: Any, resolve: Resolve) -> Part | None:
        """The layer that a binding computes, or None.

        Args:
            binding: The binding.
            value: What it binds, aliases resolved.
            resolve: Replaces an alias by what it stands for.
        """
        if isinstance(value, relax.TupleGetItem):
            parts = self._tuples.get(value.tuple_value, [])
            return parts[value.index] if value.index < len(parts) else None
        if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.Op):
            return None
        operator, sources, operands = str(value.op.name), list[Any](), list[Operand]()
        for argument in map(resolve, value.args):
            fields = list(map(resolve, argument.fields)) if isinstance(argument, relax.Tuple) else [argument]
            if isinstance(argument, relax.Tuple) and fields and all(map(tvm.ir.is_prim_expr, fields)):
                fields = [argument]  # begin, end.. of a slice
            for field in fields:
                operand = _operand(field)
                if operand is None:
                    return None
                sources.append(field)
                operands.append(operand)
        if operator == "relax.split":
            self._tuples[binding.var] = _slices(value, sources[0], operands[0])
            return None
        if operator == "relax.nn.batch_norm":
            self._tuples[binding.var] = [_scale_and_offset(value, sources[0], operands)]
            return None
        if static_type(binding.var.ty) is None:
            return None
        if operator == "relax.nn.pad":
            self._remember_pad(binding.var, value, sources[0], operands[0])
            return None
        for kind in self._kinds.get(operator, []):
            found = kind.from_relax(operator, value.attrs, operands)
            if found and found.activations and all(operands[i].value is None for i in found.activations):
                part = Part(kind.name, found.attributes, tuple(sources[i] for i in found.activations), found.weights)
                return self._without_pad(part)
        return None

    def _remember_pad(self, var: Any, value: Any, source: Any, operand: Operand) -> None:
        widths = [int(width) for width in value.attrs.pad_width]
        is_zero = value.attrs.pad_mode == "constant" and float(value.attrs.pad_value) == 0
        if operand.value is None and operand.type.rank == 4 and is_zero and widths[:4] == [0, 0, 0, 0]:
            self._pads[var] = _ZeroPad(source, (widths[4], widths[6], widths[5], widths[7]))

    def _without_pad(self, part: Part) -> Part:
        """Makes zeros around the input part of the convolution or average that reads them."""
        pad = self._pads.get(part.inputs[0])
        if pad is None:
            return part
        attributes = part.attributes
        if part.kind == "conv2d":
            changes: dict[str, Any] = {}
        elif part.kind == "pool2d" and attributes.mode == "average" and not attributes.ceil_mode:
            is_pure = attributes.count_include_pad or not any(attributes.padding)
            if not is_pure or any(np.array(pad.widths) >= attributes.kernel * 2):
                return part
            changes = {"count_include_pad": True}
        else:
            return part
        changes["padding"] = tuple(int(a + b) for a, b in zip(attributes.padding, pad.widths, strict=True))
        return replace(part, attributes=replace(attributes, **changes), inputs=(pad.source,))


def _operand(value: Any) -> Operand | None:
    """An argument as the layer kinds see it; None if no kind could use it."""
    if isinstance(value, relax.ShapeExpr):
        return _integers(value.values)
    if isinstance(value, relax.Tuple):
        return _integers(value.fields)
    if isinstance(value, tvm.tirx.IntImm):
        return Operand(TensorType((), "int64"), np.array(int(value.value), np.int64))
    if isinstance(value, tvm.tirx.FloatImm):
        return Operand(TensorType((), "float64"), np.array(float(value.value)))
    found = static_type(value.ty)
    if found is None or 0 in found.shape:
        return None
    if isinstance(value, tvm.ir.GenericConst):
        return Operand(found, array_of(value))
    return Operand(found) if isinstance(value, relax.Var) else None


def _integers(values: Any) -> Operand | None:
    if not all(isinstance(value, tvm.tirx.IntImm) for value in values):
        return None
    return Operand(TensorType((len(values),), "int64"), np.array([int(value.value) for value in values], np.int64))


def _slices(value: Any, source: Any, data: Operand) -> list[Part | None]:
    """A slice for each field of a split."""
    types = [static_type(field) for field in value.ty.fields]
    if data.value is not None or any(tensor is None or 0 in tensor.shape for tensor in types):
        return []
    axis = int(value.attrs.axis) % data.type.rank
    parts: list[Part | None] = []
    start = 0
    for tensor in types:
        assert tensor is not None
        begin, end = [0] * data.type.rank, list(data.type.shape)
        begin[axis], end[axis] = start, start + tensor.shape[axis]
        start = end[axis]
        attributes = layer_kind("slice").Attributes(tuple(begin), tuple(end), (1,) * data.type.rank)
        parts.append(Part("slice", attributes, (source,)))
    return parts


def _scale_and_offset(value: Any, source: Any, operands: list[Operand]) -> Part | None:
    """Batch normalisation at inference: a multiplication and an addition."""
    data, *statistics = operands
    constants = [operand.value for operand in statistics]
    if data.value is not None or data.type.dtype != "float32" or value.attrs.training:
        return None
    arrays = [constant.astype(np.float64) for constant in constants if constant is not None]
    if len(arrays) != 4:
        return None
    gamma, beta, mean, variance = arrays
    scale = (gamma if value.attrs.scale else 1.0) / np.sqrt(variance + float(value.attrs.epsilon))
    offset = (beta if value.attrs.center else 0.0) - mean * scale
    shape = [1] * data.type.rank
    shape[int(value.attrs.axis) % data.type.rank] = -1
    weights: Mapping[str, np.ndarray] = {
        "w0": scale.reshape(shape).astype(np.float32),
        "w1": offset.reshape(shape).astype(np.float32),
    }
    attributes = layer_kind("elementwise").Attributes((("mul", ("x0", "w0")), ("add", ("t0", "w1"))))
    return Part("elementwise", attributes, (source,), weights)
