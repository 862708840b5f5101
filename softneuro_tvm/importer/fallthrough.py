"""Writes what falls through to TVM as layers of kind ``relax``: a module in JSON, large constants beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from softneuro_tvm.graph import Layer
from softneuro_tvm.importer.nodes import Node
from softneuro_tvm.importer.relax_module import array_of, constant_of
from softneuro_tvm.registry import layer_kind

_INLINE_ELEMENTS = 16
"""Constants up to this size stay in the module: legalisation wants to see axes, bounds and scalars."""


def region_layer(
    module: Any,
    nodes: Sequence[Node],
    outputs: Sequence[Any],
    name_of: Mapping[Any, str],
    resolve: Callable[[Any], Any],
) -> Layer:
    """One layer for a group of bindings.

    Args:
        module: Where the bindings come from; kernels and functions that they call are taken along.
        nodes: The group, in order.
        outputs: Variables of the group that are needed outside.
        name_of: Tensor names by variable.
        resolve: Replaces an alias by what it stands for.

    Returns:
        The layer, named after its last output.
    """
    inside = {node.var for node in nodes}
    inputs = list(dict.fromkeys(var for node in nodes for var in node.reads if var not in inside))
    parameters = [relax.Var(f"x{i}", var.ty) for i, var in enumerate(inputs)]
    constants = _Constants()
    rewrite = _Substitution(dict(zip(inputs, parameters, strict=True)), constants, resolve)
    values = [rewrite.visit_expr(resolve(node.binding.value)) for node in nodes]
    builder = relax.BlockBuilder()
    is_plain = all(isinstance(value, relax.Call | relax.TupleGetItem) for value in values)
    with builder.function("main", [*parameters, *constants.parameters]):
        with builder.dataflow() if is_plain else contextlib.nullcontext():
            for index, (node, value) in enumerate(zip(nodes, values, strict=True)):
                value = rewrite.visit_expr(value)
                if isinstance(node.binding, relax.MatchCast):
                    bound = builder.match_cast(value, node.binding.ty)
                else:
                    bound = builder.emit(value, f"t{index}")
                rewrite.table[node.var] = bound
            results = [rewrite.table[var] for var in outputs]
            if is_plain:
                results = [builder.emit_output(result) for result in results]
        builder.emit_func_output(results[0] if len(results) == 1 else relax.Tuple(results))
    names = tuple(name_of[var] for var in outputs)
    attributes = _attributes(module, builder.get()["main"])
    return Layer(names[-1], "relax", attributes, tuple(name_of[var] for var in inputs), names, constants.weights)


def constant_layer(name: str, value: np.ndarray) -> Layer:
    """A layer without inputs whose output is a constant."""
    builder, constants, constant = relax.BlockBuilder(), _Constants(), constant_of(value)
    source = constant if value.size <= _INLINE_ELEMENTS else constants.parameter(constant)
    with builder.function("main", constants.parameters):
        with builder.dataflow():
            result = builder.emit_output(relax.op.reshape(source, value.shape))
        builder.emit_func_output(result)
    attributes = _attributes(tvm.IRModule(), builder.get()["main"])
    return Layer(name, "relax", attributes, (), (name,), constants.weights)


def _attributes(module: Any, function: Any) -> Any:
    """The function and what it calls, as JSON."""
    whole = tvm.IRModule({var: callee for var, callee in module.functions_items() if var.name_hint != "main"})
    whole["main"] = function
    return layer_kind("relax").Attributes(tvm.ir.save_json(relax.transform.DeadCodeElimination(["main"])(whole)))


class _Constants:
    """Constants that became parameters."""

    def __init__(self) -> None:
        self.parameters: list[Any] = []
        self.weights: dict[str, np.ndarray] = {}
        self._known: dict[Any, Any] = {}

    def parameter(self, constant: Any) -> Any:
        """The parameter that stands for a constant."""
        if constant not in self._known:
            parameter = relax.Var(f"w{len(self.parameters)}", constant.ty)
            self.parameters.append(parameter)
            self.weights[str(parameter.name)] = array_of(constant)
            self._known[constant] = parameter
        return self._known[constant]


@mutator
class _Substitution(PyExprMutator):  # type: ignore[misc]
    """Replaces variables by a table's entries, and large constants by parameters."""

    def __init__(self, table: dict[Any, Any], constants: _Constants, resolve: Callable[[Any], Any]) -> None:
        super().__init__()
        self.table = table
        self.constants = constants
        self.resolve = resolve

    def visit_var_(self, op: Any) -> Any:
        """Looks a variable up, or what it stands for."""
        if op in self.table:
            return self.table[op]
        meant = self.resolve(op)
        return op if isinstance(meant, relax.Var) and meant.same_as(op) else self.visit_expr(meant)

    def visit_dataflow_var_(self, op: Any) -> Any:
        """Looks a variable up, or what it stands for."""
        return self.visit_var_(op)

    def visit_generic_const_(self, op: Any) -> Any:
        """Takes a large constant out."""
        return op if array_of(op).size <= _INLINE_ELEMENTS else self.constants.parameter(op)
