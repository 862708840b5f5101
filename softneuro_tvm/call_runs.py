"""Rewrites a lowered Relax function: activations in one arena, weights apart from it, few calls of many kernels.

The virtual machine takes about a microsecond to allocate a layer's output, call its kernel and let its inputs go. So
kernels that follow one another are called by one host function, see `softneuro_tvm.call_sequence`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.call_sequence import WEIGHTS, KernelCall, Operand, call_sequence
from softneuro_tvm.step_times import TIMES_FUNCTION, times_function
from softneuro_tvm.weights import Weights

_ALLOCATE = tvm.ir.Op.get("relax.builtin.alloc_tensor")
_RESHAPE = tvm.ir.Op.get("relax.reshape")
_DATA, _BYTE_OFFSET = 1, 8
"""Fields of a `DLTensor` as TVM's intrinsics number them."""


@dataclass(frozen=True)
class _Part:
    """A tensor within the memory of another: of a variable's tensor, the arena or the weights."""

    base: Any
    offset: int
    shape: tuple[int, ...]
    dtype: str


_ARENA, _WEIGHTS = "arena", "weights"


def merge_calls(
    module: tvm.IRModule, offsets: Mapping[Any, int], arena_bytes: int
) -> tuple[tvm.IRModule, Weights, list[tuple[str, str]]]:
    """The module whose ``main`` allocates the arena once for each run and calls kernels in sequences.

    Constants that these kernels read are no longer part of the module.

    Args:
        module: ``main`` in destination-passing style, without dataflow blocks, and the kernels it calls.
        offsets: Bytes from the arena's beginning, by the variable to which ``main`` binds a tensor that it allocates.
        arena_bytes: Size of the arena.

    Returns:
        The module, the weights that its library must hold, and for each call of a sequence the variable to which
        ``main`` binds its result, and the kernel's symbol.
    """
    rewriter = _Rewriter(module, offsets, arena_bytes)
    return rewriter.module(), rewriter.packed, rewriter.steps_called


class _Rewriter:
    """One pass over the bindings of ``main``; calls wait until something needs their results."""

    def __init__(self, source: tvm.IRModule, offsets: Mapping[Any, int], arena_bytes: int) -> None:
        self.source, self.offsets, self.arena_bytes = source, offsets, arena_bytes
        self.main = source["main"]
        self.steps = [binding for block in self.main.body.blocks for binding in block.bindings]
        self.builder = relax.BlockBuilder(source)
        self.added: dict[str, Any] = {}
        self.bindings: list[Any] = []
        self.parts: dict[Any, _Part] = {}
        self.waiting: list[tuple[str, tuple[_Part, ...]]] = []
        self.steps_called: list[tuple[str, str]] = []
        self.names: dict[Any, str] = {}
        for step in self.steps:
            for value in step.value if isinstance(step.value, relax.Tuple) else (step.value,):
                if isinstance(value, relax.Var):
                    self.names.setdefault(value, str(step.var.name))
        self.weights: dict[Any, int] = {}
        self.kernels = {
            variable: str(function.attrs["global_symbol"])
            for variable, function in source.functions.items()
            if isinstance(function, tirx.PrimFunc)
        }

    def module(self) -> tvm.IRModule:
        """The rewritten module."""
        self.packed, self.needed = self._packed_weights(), self._needed()
        self.bases: dict[str, Any] = {}
        if self.arena_bytes:
            self._allocate()
        for step in self.steps:
            self._step(step)
        self._call()
        self._add(TIMES_FUNCTION, times_function(len(self.steps_called)))
        body = relax.SeqExpr([relax.BindingBlock(self.bindings)], self.main.body.body)
        result = tvm.IRModule(self.source.functions, attrs=self.source.attrs)
        for variable, function in self.added.items():
            result[variable] = function
        result["main"] = relax.Function(self.main.params, body, self.main.ret_ty, self.main.is_pure, self.main.attrs)
        return result

    def _packed_weights(self) -> Weights:
        """Constants of all kernels."""
        arrays: dict[Any, np.ndarray] = {}
        for step in self.steps:
            for argument in step.value.args if self._is_kernel_call(step.value) else ():
                if isinstance(argument, tvm.ir.GenericConst) and argument not in arrays:
                    arrays[argument] = np.from_dlpack(argument.value)
        packed = Weights(tuple(arrays.values()))
        self.weights = dict(zip(arrays, packed.offsets, strict=True))
        return packed

    def _allocate(self) -> None:
        """The arena, and tensors in it for what others than kernels read."""
        size, make = relax.ShapeExpr([self.arena_bytes]), relax.op.memory.alloc_tensor
        storage = self._bind("storage", relax.op.memory.alloc_storage(size, 0, "global", "uint8"))
        self.bases[_ARENA] = self._bind(_ARENA, make(storage, 0, size, "uint8"))
        made = []
        for variable, offset in self.offsets.items():
            self.parts[variable] = part = _Part(_ARENA, offset, _shape(variable), str(variable.ty.dtype))
            if variable in self.needed:
                tensor = make(storage, offset, relax.ShapeExpr(part.shape), part.dtype)
                made.append(relax.VarBinding(variable, self.builder.normalize(tensor)))
        self.bindings += made
        if moved := [binding.var for binding in made if self.parts[binding.var].offset]:
            self._bind("_", relax.Call(self._add("resolve_offsets", _resolve_offsets(len(moved))), moved))

    def _needed(self) -> set[Any]:
        """Variables that must be tensors of their own: what anything but a kernel reads, views included."""
        needed = set(relax.analysis.free_vars(self.main.body.body))
        for step in reversed(self.steps):
            if not self._is_kernel_call(step.value) and (not self._is_view(step) or step.var in needed):
                needed |= set(relax.analysis.free_vars(step.value))
        return needed

    def _step(self, step: Any) -> None:
        if self._is_kernel_call(step.value):
            operands = tuple(self._part(argument) for argument in step.value.args)
            self.waiting.append((self.kernels[step.value.op], operands))
            self.steps_called.append((self.names.get(step.value.args[-1], ""), self.kernels[step.value.op]))
            return
        if step.var in self.offsets:
            return
        if self._is_view(step):
            source = self._part(step.value if isinstance(step.value, relax.Var) else step.value.args[0])
            self.parts[step.var] = replace(source, shape=_shape(step.var))
            if step.var not in self.needed:
                return
        elif not (isinstance(step.value, relax.Call) and step.value.op == _ALLOCATE):
            self._call()
        self.bindings.append(step)

    def _part(self, value: Any) -> _Part:
        """Where a kernel's argument lies."""
        if value in self.parts:
            return self.parts[value]
        if isinstance(value, tvm.ir.GenericConst):
            return _Part(_WEIGHTS, self.weights[value], _shape(value), str(value.ty.dtype))
        return _Part(value, 0, _shape(value), str(value.ty.dtype))

    def _call(self) -> None:
        """Calls what waits, in one sequence."""
        if not self.waiting:
            return
        used = dict.fromkeys(part.base for _, operands in self.waiting for part in operands)
        bases = [base for base in used if base is not _WEIGHTS]
        arguments = [self.bases[base] if isinstance(base, str) else base for base in bases]
        position = {base: index for index, base in enumerate(bases)} | {_WEIGHTS: WEIGHTS}
        first = len(self.steps_called) - len(self.waiting)
        calls = [
            KernelCall(symbol, tuple(Operand(position[p.base], p.offset, p.shape, p.dtype) for p in operands), step)
            for step, (symbol, operands) in enumerate(self.waiting, first)
        ]
        symbol = f"sequence{len(self.added)}"
        types = [(_shape(argument), str(argument.ty.dtype)) for argument in arguments]
        self._bind("_", relax.Call(self._add(symbol, call_sequence(symbol, types, calls)), arguments))
        self.waiting.clear()

    def _is_kernel_call(self, value: Any) -> bool:
        if not isinstance(value, relax.Call) or value.op not in self.kernels:
            return False
        return all(isinstance(each, relax.Var | tvm.ir.GenericConst) and _is_static(each) for each in value.args)

    def _is_view(self, step: Any) -> bool:
        """True for another name or shape of a tensor."""
        value = step.value
        if isinstance(value, relax.Call) and value.op == _RESHAPE:
            value = value.args[0]
        return isinstance(value, relax.Var) and _is_static(value) and _is_static(step.var)

    def _bind(self, name: str, value: Any) -> Any:
        value = self.builder.normalize(value)
        variable = relax.Var(name, value.ty)
        self.bindings.append(relax.VarBinding(variable, value))
        return variable

    def _add(self, name: str, function: Any) -> Any:
        variable = self.builder.add_func(function, name)
        self.added[variable] = function
        return variable


def _is_static(value: Any) -> bool:
    shape = getattr(value.ty, "shape", None)
    return isinstance(shape, relax.ShapeExpr) and all(isinstance(extent, tirx.IntImm) for extent in shape.values)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(extent) for extent in value.ty.shape.values)


def _resolve_offsets(count: int) -> tirx.PrimFunc:
    """A function that adds the byte offsets of tensors to their data pointers.

    The virtual machine leaves the offset of a tensor within its storage in `byte_offset`, kernels want it to be zero.
    """
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("resolve_offsets")
            T.func_attr({"global_symbol": "resolve_offsets"})
            for tensor in [T.arg(f"tensor{i}", T.handle()) for i in range(count)]:
                data = T.tvm_struct_get(tensor, 0, _DATA, T.handle().ty)
                offset = T.tvm_struct_get(tensor, 0, _BYTE_OFFSET, "uint64")
                moved = T.handle_add_byte_offset(data, T.Cast("int64", offset))
                T.evaluate(T.tvm_struct_set(tensor, 0, _DATA, moved))
                T.evaluate(T.tvm_struct_set(tensor, 0, _BYTE_OFFSET, T.uint64(0)))
    return builder.get()
