"""Finds places in one arena for the tensors of a lowered Relax function, instead of TVM's storages of one tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, tirx

from softneuro_tvm.memory import Arena, Buffer, plan_arena
from softneuro_tvm.routine import Nested

_ALLOCATE = tvm.ir.Op.get("relax.builtin.alloc_tensor")
_RESHAPE = tvm.ir.Op.get("relax.reshape")

Held = frozenset[int] | tuple["Held", ...]
"""Tensors whose memory a value refers to; a tuple for a tuple of values."""

_NOTHING: frozenset[int] = frozenset()


@dataclass
class _Tensor:
    """A tensor that a function allocates, and the steps between which it is needed.

    Args:
        shape: Extents.
        dtype: Element type.
        first: Step that writes it; -1 if nothing uses it.
        last: Last step that reads it.
        reuses: Tensors in whose place it may be written.
        writer: The kernel that may do so.
        is_returned: True if it outlives the function.
    """

    shape: tuple[int, ...]
    dtype: str
    first: int = -1
    last: int = -1
    reuses: tuple[int, ...] = ()
    writer: Any = None
    is_returned: bool = False

    @property
    def is_planned(self) -> bool:
        """True if it is used, and only within the function."""
        return self.first >= 0 and not self.is_returned

    @property
    def size_bytes(self) -> int:
        """Bytes of its elements."""
        bits = int(tvm.DataType(self.dtype).bits * tvm.DataType(self.dtype).lanes)
        return -(-math.prod(self.shape) * bits // 8)


class _Lifetimes:
    """Follows which values refer to which tensors.

    Args:
        function: In destination-passing style, without dataflow blocks.
        kernels: Functions that read and write their arguments and keep none.
        in_place: By kernel name, the arguments in whose place the last argument may be written.
        nested: By kernel name, how its arguments may lie within one another.
        returned: Tensors that outlive the function; nothing lies within them, nor they within others.

    Attributes:
        tensors: What the function allocates.
        within: Which of them lie within which, see `plan_arena`.
        idle: Variables of calls that have nothing to do therefore.
    """

    def __init__(
        self,
        function: Any,
        kernels: set[Any],
        in_place: Mapping[str, Sequence[int]],
        nested: Mapping[str, Nested],
        returned: frozenset[int] = _NOTHING,
    ) -> None:
        self.kernels, self.in_place, self.nested, self.returned = kernels, in_place, nested, returned
        self.tensors: list[_Tensor] = []
        self.within: dict[int, tuple[int, int]] = {}
        self.idle: set[Any] = set()
        self.allocated: dict[Any, int] = {}
        self.exactly: dict[Any, int] = {}
        self.held: dict[Any, Held] = {}
        bindings = [binding for block in function.body.blocks for binding in block.bindings]
        for step, binding in enumerate(bindings):
            self.held[binding.var] = self._value(binding.value, step, binding.var)
        self.results = _all(self._of(function.body.body))
        for index in self.results:
            self.tensors[index].is_returned = True

    def _value(self, value: Any, step: int, variable: Any) -> Held:
        if isinstance(value, relax.Var) and value in self.exactly:
            self.exactly[variable] = self.exactly[value]
        if isinstance(value, relax.Var | relax.Tuple | relax.TupleGetItem):
            return self._of(value)
        if not isinstance(value, tvm.ir.Call):
            return self._used(relax.analysis.free_vars(value), step)
        if value.op == _ALLOCATE and (shape := _static(value.args[0])) is not None:
            self.allocated[variable] = self.exactly[variable] = len(self.tensors)
            self.tensors.append(_Tensor(shape, str(variable.ty.dtype)))
            return frozenset([self.allocated[variable]])
        if value.op == _RESHAPE:
            if value.args[0] in self.exactly:
                self.exactly[variable] = self.exactly[value.args[0]]
            return self._of(value.args[0])
        if isinstance(value.op, tvm.ir.GlobalVar) and value.op in self.kernels:
            if self._nest(value):
                self.idle.add(variable)
            else:
                self._permit(value)
            self._used(value.args, step)
            return _NOTHING
        return self._used(relax.analysis.free_vars(value), step)

    def _of(self, value: Any) -> Held:
        """What a value that computes nothing refers to."""
        if isinstance(value, relax.Tuple):
            return tuple(self._of(field) for field in value.fields)
        if isinstance(value, relax.TupleGetItem):
            held = self._of(value.tuple_value)
            return held[value.index] if isinstance(held, tuple) else held
        return self.held.get(value, _NOTHING) if isinstance(value, relax.Var) else _NOTHING

    def _used(self, values: Iterable[Any], step: int) -> frozenset[int]:
        """Notes a use of all tensors that the values refer to."""
        used = frozenset(index for value in values for index in _all(self._of(value)))
        for index in used:
            tensor = self.tensors[index]
            tensor.first, tensor.last = (step if tensor.first < 0 else tensor.first), step
        return used

    def _nest(self, call: Any) -> bool:
        """Puts tensors into one another that a kernel would copy otherwise; False if they cannot lie so."""
        nested = self.nested.get(call.op.name_hint)
        if nested is None or any(argument not in self.exactly for argument in call.args):
            return False
        *read, written = [self.exactly[argument] for argument in call.args]
        (whole,), parts = (read, [written]) if nested.splits else ([written], read)
        is_fresh = self.tensors[written].first < 0 and written not in read
        is_free = len(set(parts)) == len(parts) and not any(part in self.within for part in parts)
        if not (is_fresh and is_free) or self.returned & {whole, *parts}:
            return False
        self.within |= {part: (whole, offset) for part, offset in zip(parts, nested.offsets, strict=True)}
        return True

    def _root(self, index: int) -> int:
        """The tensor in whose memory another one lies."""
        while index in self.within:
            index, _ = self.within[index]
        return index

    def _permit(self, call: Any) -> None:
        """Notes which inputs a kernel may overwrite with its output."""
        positions = self.in_place.get(call.op.name_hint, ())
        *read, written = [frozenset(map(self._root, _all(self._of(argument)))) for argument in call.args]
        if positions and len(written) == 1 and self.tensors[next(iter(written))].first < 0:
            others = frozenset().union(*(held for i, held in enumerate(read) if i not in positions))
            candidates = [next(iter(read[i])) for i in positions if len(read[i]) == 1 and not read[i] & others]
            tensor = self.tensors[next(iter(written))]
            tensor.reuses, tensor.writer = tuple(dict.fromkeys(candidates)), call.op


def place_activations(
    module: tvm.IRModule, in_place: Mapping[str, Sequence[int]], nested: Mapping[str, Nested]
) -> tuple[tvm.IRModule, dict[Any, int], Arena]:
    """Finds places in one arena for the tensors that ``main`` allocates.

    What ``main`` returns keeps an allocation of its own; so do tensors whose shapes depend on data and those of
    branches. The model's inputs are never written.

    Args:
        module: Relax functions in destination-passing style, without dataflow blocks, and the kernels they call.
        in_place: By kernel name, the arguments in whose place the last argument may be written.
        nested: By kernel name, how its arguments may lie within one another; then it is not called.

    Returns:
        The module, where kernels know if their arguments overlap; offsets in bytes by the variable to which `main`
        binds a tensor; and the plan of the arena.
    """
    main = module["main"]
    kernels = {variable for variable, function in module.functions.items() if isinstance(function, tirx.PrimFunc)}
    lifetimes = _Lifetimes(main, kernels, in_place, {})
    if nested:
        lifetimes = _Lifetimes(main, kernels, in_place, nested, lifetimes.results)
    planned = [index for index, tensor in enumerate(lifetimes.tensors) if tensor.is_planned]
    tensors, number = [lifetimes.tensors[index] for index in planned], {index: i for i, index in enumerate(planned)}
    reuses = [tuple(number[reused] for reused in tensor.reuses if reused in number) for tensor in tensors]
    within = {number[part]: (number[whole], offset) for part, (whole, offset) in lifetimes.within.items()}
    buffers = [Buffer(t.size_bytes, t.first, t.last, r) for t, r in zip(tensors, reuses, strict=True)]
    arena = plan_arena(buffers, within)
    module = _without(module, lifetimes.idle)
    for tensor, permitted, offset in zip(tensors, reuses, arena.offsets, strict=True):
        if any(arena.offsets[i] == offset and tensors[i].last == tensor.first for i in permitted):
            # the compiler must not assume that this kernel's arguments lie apart
            module[tensor.writer] = module[tensor.writer].with_attr("tirx.noalias", False)
    offsets = {
        variable: arena.offsets[number[index]] for variable, index in lifetimes.allocated.items() if index in number
    }
    return module, offsets, arena


def _without(module: tvm.IRModule, idle: set[Any]) -> tvm.IRModule:
    """A module whose ``main`` lacks some calls, and which lacks the kernels that nobody calls any more."""
    main = module["main"]
    steps = [binding for block in main.body.blocks for binding in block.bindings]
    kept = [binding for binding in steps if binding.var not in idle]
    called = {binding.value.op for binding in kept if isinstance(binding.value, tvm.ir.Call)}
    gone = {binding.value.op for binding in steps if binding.var in idle} - called
    functions = {variable: function for variable, function in module.functions.items() if variable not in gone}
    found = tvm.IRModule(functions, attrs=module.attrs)
    if idle:
        body = relax.SeqExpr([relax.BindingBlock(kept)], main.body.body)
        found["main"] = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    return found


def _all(held: Held) -> frozenset[int]:
    return held if isinstance(held, frozenset) else _NOTHING.union(*(_all(field) for field in held))


def _static(shape: Any) -> tuple[int, ...] | None:
    """The extents, if all are known."""
    if isinstance(shape, relax.ShapeExpr) and all(isinstance(extent, tirx.IntImm) for extent in shape.values):
        return tuple(int(extent) for extent in shape.values)
    return None
