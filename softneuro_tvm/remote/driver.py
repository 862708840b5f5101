"""Code that runs on a board around the kernels that are measured there, so that little has to be sent.

TVM's timer calls a function with the same arguments again and again, so the weights of a small layer would stay in
cache, which they do not in a network. So what is timed is a function that calls the kernel with the next of several
copies of its weights, which lie one after the other in a *pool*.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.formats import TensorType
from softneuro_tvm.memory import aligned

_PREFIX = "__tvm_ffi_"
"""What TVM puts before the names of functions in libraries."""
BLANK = "softneuro_blank"
"""Function of a tensor and its size in bytes: sets all bits, so that what a kernel leaves unwritten is not a number."""
SPREAD = "softneuro_spread"
"""Function of a pool, a weight, its size, the offset of its first copy, their distance and number: makes the copies."""


def rotation_symbol(kernel: str) -> str:
    """Name of the function that calls a kernel with the next copy of its weights."""
    return f"rotate_{kernel}"


def copy_bytes(weights: Sequence[TensorType]) -> int:
    """Bytes of one copy of a kernel's weights in its pool."""
    return sum(aligned(weight.size_bytes) for weight in weights)


def rotation(
    kernel: str, inputs: Sequence[TensorType], weights: Sequence[TensorType], outputs: Sequence[TensorType]
) -> Any:
    """A function that calls a kernel with the next copy of its weights each time.

    Its arguments are inputs, pool, outputs, the position of the copy (int64, one element, changed), and their number.

    Args:
        kernel: Symbol of the kernel, in the same library.
        inputs: Physical types.
        weights: As they are packed.
        outputs: Physical types.
    """
    symbol, stride = rotation_symbol(kernel), copy_bytes(weights)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(symbol)
            T.func_attr({"global_symbol": symbol})
            read = [T.arg(f"x{i}", T.buffer(each.shape, each.dtype)).data for i, each in enumerate(inputs)]
            pool = T.arg("pool", T.buffer((1,), "uint8")).data
            written = [T.arg(f"y{i}", T.buffer(each.shape, each.dtype)).data for i, each in enumerate(outputs)]
            cursor, copies = T.arg("cursor", T.buffer((1,), "int64")), T.arg("copies", T.int64())
            operands = [_stack_tensor(data, each) for data, each in zip(read, inputs, strict=True)]
            offset = 0
            for each in weights:
                place = T.handle_add_byte_offset(pool, cursor[0] * T.int64(stride) + T.int64(offset))
                operands.append(_stack_tensor(place, each))
                offset += aligned(each.size_bytes)
            operands += [_stack_tensor(data, each) for data, each in zip(written, outputs, strict=True)]
            T.evaluate(T.call_cpacked(f"{_PREFIX}{kernel}", *operands))
            T.buffer_store(cursor, T.Select(cursor[0] + 1 >= copies, T.int64(0), cursor[0] + 1), [0])
    return builder.get()


def _stack_tensor(data: Any, tensor: TensorType) -> Any:
    """A `DLTensor` on the stack, without strides."""
    null = T.reinterpret("handle", T.uint64(0))
    shape = T.tvm_stack_make_shape(*[T.int64(extent) for extent in tensor.shape]) if tensor.shape else null
    rank, element = T.int32(len(tensor.shape)), T.Cast(tensor.dtype, T.int32(0))
    return T.tvm_stack_make_array(data, shape, null, rank, element, T.int64(0))


def byte_functions() -> list[Any]:
    """`BLANK` and `SPREAD`; they take tensors of any type: kernels do not check what they are given."""
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(BLANK)
            T.func_attr({"global_symbol": BLANK, "tirx.noalias": True})
            y, size = T.arg("y", T.buffer((1,), "uint8")), T.arg("size", T.int64())
            with T.serial(0, size) as i:
                T.buffer_store(y, T.uint8(255), [i])
    blank = builder.get()
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(SPREAD)
            T.func_attr({"global_symbol": SPREAD, "tirx.noalias": True})
            pool, weight = (T.arg(name, T.buffer((1,), "uint8")) for name in ("pool", "weight"))
            size, offset, stride, copies = (T.arg(name, T.int64()) for name in ("size", "offset", "stride", "copies"))
            with T.serial(0, copies) as copy:
                with T.serial(0, size) as i:
                    T.buffer_store(pool, weight[i], [offset + copy * stride + i])
    return [blank, builder.get()]
