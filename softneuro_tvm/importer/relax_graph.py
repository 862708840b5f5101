"""Relax function -> `Graph`: recognised calls become layers, runs of the others become fall-through layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from softneuro_tvm.errors import DynamicShapeError, ModelError
from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.importer.fallthrough import constant_layer, region_layer
from softneuro_tvm.importer.nodes import Node, Part
from softneuro_tvm.importer.recognise import Recogniser
from softneuro_tvm.importer.relax_module import array_of, static_type
from softneuro_tvm.importer.schedule import schedule
from softneuro_tvm.layers.relax import tensor_type


def graph_from_relax(
    module: Any,
    function_name: str,
    *,
    names: Mapping[str, str] | None = None,
    output_names: Sequence[str] = (),
    model: str = "model",
) -> Graph:
    """Turns a prepared module into a graph.

    Args:
        module: From `relax_module.prepare`.
        function_name: The function that is the model.
        names: Name of the model's node by variable name, where known.
        output_names: What the model calls its outputs.
        model: The model's name.

    Raises:
        ModelError: an output is no tensor.
        DynamicShapeError: an output's rank depends on data.
    """
    function = module[function_name]
    if len(output_names) == 1 and isinstance(function.ret_ty, relax.TupleType):
        raise ModelError(f"output {output_names[0]!r} of the model is a sequence; only tensors are supported")
    return _Walk(module, function, names or {}).graph(tuple(output_names), model)


class _Walk:
    """One pass over a function's bindings."""

    def __init__(self, module: Any, function: Any, names: Mapping[str, str]) -> None:
        self.module = module
        self.function = function
        self.names = names
        self.alias: dict[Any, Any] = {}
        self.definer: dict[Any, Any] = {}
        self.taken = {str(parameter.name) for parameter in function.params}
        self.recogniser = Recogniser()
        self.nodes: list[Node] = []
        for block in function.body.blocks:
            for binding in block.bindings:
                self._visit(binding)
        self.results = self._results(self._resolved(function.body.body))
        for node in self.nodes:
            if node.tied and node.var in self._returned():
                node.name = self._unique(self.names.get(str(node.var.name), "open"))

    def graph(self, output_names: tuple[str, ...], model: str) -> Graph:
        """Live nodes, in scheduled runs, as layers."""
        live = self._live()
        name_of = {parameter: str(parameter.name) for parameter in self.function.params}
        name_of |= {node.var: node.name for node in live if node.name}
        types = {name: found for var, name in name_of.items() if (found := tensor_type(var.ty)) is not None}
        layers = []
        for run in schedule(live):
            if run[0].part:
                layers.append(self._layer(run[0], run[0].part, name_of))
                continue
            members = {node.var for node in run}
            needed = {var for node in live if node.var not in members for var in node.inputs} | self._returned()
            outputs = [node.var for node in run if node.var in needed]
            layers.append(region_layer(self.module, run, outputs, name_of, self._resolved))
        returned = []
        for position, value in enumerate(self.results):
            if isinstance(value, np.ndarray):
                name = self._unique(output_names[position] if output_names else "constant")
                layers.append(constant_layer(name, value))
                types[name] = TensorType(tuple(value.shape), str(value.dtype))
                returned.append(name)
            else:
                returned.append(name_of[value])
        inputs = tuple(str(parameter.name) for parameter in self.function.params)
        written = {*inputs, *(tensor for layer in layers for tensor in layer.outputs)}
        tensors = {name: found for name, found in types.items() if name in written}
        return Graph(tuple(layers), tensors, inputs, tuple(returned), model, output_names)

    def _returned(self) -> set[Any]:
        return {value for value in self.results if isinstance(value, relax.Var)}

    def _live(self) -> list[Node]:
        """The nodes that the results need."""
        live, wanted = [], self._returned()
        for node in reversed(self.nodes):
            if node.var in wanted:
                live.append(node)
                wanted |= set(node.inputs)
        return live[::-1]

    def _layer(self, node: Node, part: Part, name_of: dict[Any, str]) -> Layer:
        inputs = tuple(name_of[var] for var in part.inputs)
        return Layer(node.name, part.kind, part.attributes, inputs, (node.name,), part.weights)

    def _visit(self, binding: Any) -> None:
        value = self._resolved(binding.value)
        if isinstance(binding, relax.VarBinding):
            if isinstance(value, relax.Var | relax.Tuple | tvm.ir.GenericConst | relax.ShapeExpr):
                self.alias[binding.var] = value
                return
            if isinstance(value, relax.TupleGetItem) and isinstance(value.tuple_value, relax.Tuple):
                self.alias[binding.var] = value.tuple_value.fields[value.index]
                return
        extents = _extents(binding, value)
        found = [var for free in relax.analysis.free_vars(value) for var in self._leaves(free)]
        found += [self.definer[extent] for extent in extents if extent in self.definer]
        if isinstance(binding, relax.MatchCast):
            self.definer = {extent: binding.var for extent in extents} | self.definer
        reads = tuple(dict.fromkeys(found))
        part = self.recogniser.part(binding, value, self._resolved)
        kind = part.kind if part else value.op.name.rpartition(".")[2] if _is_operator(value) else "tvm"
        tied = static_type(binding.var.ty) is None
        name = "" if tied else self._unique(self.names.get(str(binding.var.name), f"{kind}_{len(self.nodes)}"))
        self.nodes.append(Node(binding, reads, name, part, tied, part is None and _is_symbolic(binding, value)))

    def _resolved(self, value: Any) -> Any:
        """What a variable stands for: itself unless it is an alias; tuples field by field."""
        while isinstance(value, relax.Var) and value in self.alias:
            value = self.alias[value]
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._resolved(field) for field in value.fields])
        if isinstance(value, relax.TupleGetItem):
            whole, index = self._resolved(value.tuple_value), value.index
            return whole.fields[index] if isinstance(whole, relax.Tuple) else relax.TupleGetItem(whole, index)
        return value

    def _leaves(self, value: Any) -> list[Any]:
        value = self._resolved(value)
        if isinstance(value, relax.Tuple):
            return [leaf for field in value.fields for leaf in self._leaves(field)]
        return [value] if isinstance(value, relax.Var) and not tvm.ir.is_prim_var(value) else []

    def _unique(self, base: str) -> str:
        name, count = base, 1
        while name in self.taken:
            name, count = f"{base}_{count}", count + 1
        self.taken.add(name)
        return name

    def _results(self, value: Any) -> list[Any]:
        """Variables or arrays that the function returns."""
        fields = list(value.fields) if isinstance(value, relax.Tuple) else [value]
        found: list[Any] = []
        for position, field in enumerate(fields):
            if isinstance(field, tvm.ir.GenericConst):
                found.append(array_of(field))
            elif isinstance(field, relax.ShapeExpr) and all(isinstance(n, tvm.tirx.IntImm) for n in field.values):
                found.append(np.array([int(n) for n in field.values], np.int64))
            elif isinstance(field, relax.Var) and tensor_type(field.ty) is not None:
                found.append(field)
            elif isinstance(field.ty, relax.TensorType | relax.ShapeType):
                raise DynamicShapeError(
                    f"output {position} of the model has a rank that depends on data ({field.ty}); "
                    "cut the model before the node that computes it"
                )
            else:
                raise ModelError(f"output {position} of the model is a {field.ty}; only tensors are supported")
        return found


def _extents(binding: Any, value: Any) -> set[Any]:
    """Variables that stand for extents, in a binding's type and in what its value is computed from."""
    found = set(relax.analysis.tir_vars_in_type(binding.var.ty))
    for argument in value.args if isinstance(value, relax.Call) else [value]:
        if tvm.ir.is_prim_expr(argument):
            found |= set(tvm.tirx.analysis.undefined_vars(argument))
        else:
            found |= set(relax.analysis.tir_vars_in_type(argument.ty))
    return found


def _is_operator(value: Any) -> bool:
    return isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op)


def _is_symbolic(binding: Any, value: Any) -> bool:
    """True if a binding gives or uses shapes that are known only at run time."""
    if isinstance(binding, relax.MatchCast):
        return True
    arguments = [value, *(value.args if isinstance(value, relax.Call) else [])]
    return any(_has_symbolic_type(argument) for argument in arguments)


def _has_symbolic_type(value: Any) -> bool:
    if isinstance(value.ty, relax.TupleType) and not isinstance(value, relax.Tuple):
        return any(isinstance(field, relax.TensorType) and static_type(field) is None for field in value.ty.fields)
    if isinstance(value, relax.Tuple):
        return any(map(_has_symbolic_type, value.fields))
    if isinstance(value, relax.ShapeExpr):
        return not all(isinstance(extent, tvm.tirx.IntImm) for extent in value.values)
    if isinstance(value.ty, relax.TensorType):
        return static_type(value.ty) is None
    return tvm.ir.is_prim_expr(value) and not isinstance(value, tvm.tirx.IntImm | tvm.tirx.FloatImm)
