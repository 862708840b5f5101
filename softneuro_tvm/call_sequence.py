"""One host function that calls kernels one after another: some 20 ns a call, where the virtual machine takes 1 us."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.step_times import MARK_FUNCTION
from softneuro_tvm.weights import ADDRESS_FUNCTION

_PREFIX = "__tvm_ffi_"
"""What TVM puts before the names of functions in libraries."""

WEIGHTS = -1
"""Instead of the position of an argument: the weights of the library that holds the sequence."""


@dataclass(frozen=True)
class Operand:
    """A tensor that a kernel reads or writes, as a part of an argument of the sequence.

    Args:
        argument: Position of the argument in whose memory it lies, or `WEIGHTS`.
        offset: Bytes from the beginning of that memory, a multiple of 64.
        shape: Extents.
        dtype: Element type.
    """

    argument: int
    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class KernelCall:
    """A call of a kernel of the same library.

    Args:
        symbol: The kernel's global symbol.
        operands: Its arguments in order.
        step: Number of the call among all of the network.
    """

    symbol: str
    operands: tuple[Operand, ...]
    step: int = 0


def call_sequence(symbol: str, arguments: Sequence[tuple[tuple[int, ...], str]], calls: Sequence[KernelCall]) -> Any:
    """A function that makes calls in order, and tells when each has ended, see `softneuro_tvm.step_times`.

    Args:
        symbol: Its global symbol.
        arguments: Shape and element type of each argument.
        calls: What it calls; kernels get tensors of their own, made on the stack.
    """
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(symbol)
            T.func_attr({"global_symbol": symbol})
            data = {i: T.arg(f"a{i}", T.buffer(shape, dtype)).data for i, (shape, dtype) in enumerate(arguments)}
            if any(each.argument == WEIGHTS for call in calls for each in call.operands):
                data[WEIGHTS] = T.bind(T.call_extern("handle", ADDRESS_FUNCTION))
            declared: set[str] = set()
            T.evaluate(_mark(-1))
            for call in calls:
                # TVM declares a name as it stands at its first call, and looks for it with the prefix from then on
                name = call.symbol if call.symbol in declared else f"{_PREFIX}{call.symbol}"
                declared.add(call.symbol)
                T.evaluate(T.call_cpacked(name, *[_tensor(data[each.argument], each) for each in call.operands]))
                T.evaluate(_mark(call.step))
    return builder.get()


def _tensor(data: Any, operand: Operand) -> Any:
    """A `DLTensor` on the stack, without strides."""
    pointer = T.handle_add_byte_offset(data, T.int64(operand.offset)) if operand.offset else data
    shape = T.tvm_stack_make_shape(*[T.int64(extent) for extent in operand.shape]) if operand.shape else _null()
    rank, element = T.int32(len(operand.shape)), T.Cast(operand.dtype, T.int32(0))
    return T.tvm_stack_make_array(pointer, shape, _null(), rank, element, T.int64(0))


def _mark(step: int) -> Any:
    return T.call_extern("int32", MARK_FUNCTION, T.int32(step))


def _null() -> Any:
    return T.reinterpret("handle", T.uint64(0))
