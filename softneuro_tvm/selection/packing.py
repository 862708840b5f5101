"""How large packed weights are, without packing them.

A routine's own `pack` runs on arrays that have a shape and an element type but only one element in memory. What it does
with them (padding, splitting, transposing, joining, arithmetic) yields more such arrays; anything else is computed as
usual. So the sizes are those of the real thing, in microseconds instead of the seconds that large layers take.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from softneuro_tvm.registry import layer_kind
from softneuro_tvm.routine import Candidate, Routine

LARGE = 1 << 16
"""Elements from which on arrays that a routine makes itself are shadows, too."""

_LOCK, _MAKERS = threading.Lock(), {"zeros": np.zeros, "empty": np.empty}


def packed_bytes(candidate: Candidate) -> int:
    """Bytes of the weights as the candidate's kernel reads them.

    A routine must not make the size depend on values: every weight counts as 0.
    """
    workload, routine = candidate.workload, candidate.routine
    if not workload.weights or type(routine).pack is Routine.pack:
        return sum(tensor.size_bytes for _, tensor in workload.weights) if workload.weights else _constants(candidate)
    weights = {key: _shadow(tensor.shape, tensor.dtype) for key, tensor in workload.weights}
    try:
        with _shadows_made():
            packed = routine.pack(workload, candidate.variant, weights)
    except (TypeError, ValueError, IndexError, AttributeError):
        # a routine may do what shadows cannot follow; real arrays serve for every routine
        packed = routine.pack(workload, candidate.variant, layer_kind(workload.kind).sample(workload)[1])
    return sum(array.nbytes for array in packed)


def _constants(candidate: Candidate) -> int:
    """Bytes of what a routine packs for a layer without weights: tables of positions."""
    return sum(array.nbytes for array in candidate.routine.pack(candidate.workload, candidate.variant, {}))


class _Shadow(np.ndarray[Any, Any]):
    """An array whose elements are all the same one in memory."""

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        """Another element type."""
        return _shadow(self.shape, dtype)

    def ravel(self, *args: Any, **kwargs: Any) -> Any:
        """One axis."""
        return _shadow((self.size,), self.dtype)

    flatten = ravel

    def copy(self, *args: Any, **kwargs: Any) -> Any:
        """The same."""
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        """Nothing: values do not matter."""

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        rule = _RULES.get(function)
        if rule is None:
            return super().__array_function__(function, types, args, kwargs)
        return rule(*args, **kwargs)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or ufunc.nout != 1 or "out" in kwargs:
            plain = (np.asarray(value) if isinstance(value, _Shadow) else value for value in inputs)
            return getattr(ufunc, method)(*plain, **kwargs)
        if ufunc is np.matmul:
            return _matmul(*inputs)
        single = (np.ones((), value.dtype) if isinstance(value, np.ndarray) else value for value in inputs)
        shape = np.broadcast_shapes(*(np.shape(value) for value in inputs))
        return _shadow(shape, ufunc(*single, **kwargs).dtype)


def _shadow(shape: Sequence[int], dtype: Any) -> Any:
    return np.broadcast_to(_MAKERS["zeros"]((), dtype), tuple(shape)).view(_Shadow)


@contextmanager
def _shadows_made() -> Iterator[None]:
    """Within it, large arrays that this thread makes with `np.zeros` or `np.empty` are shadows, in no other thread."""
    owner = threading.get_ident()

    def shadowing(make: Callable[..., Any]) -> Callable[..., Any]:
        def made(shape: Any, dtype: Any = float, *args: Any, **kwargs: Any) -> Any:
            extents = (shape,) if isinstance(shape, int) else tuple(shape)
            if threading.get_ident() == owner and math.prod(extents) >= LARGE:
                return _shadow(extents, dtype)
            return make(shape, dtype, *args, **kwargs)

        return made

    with _LOCK:
        vars(np).update({name: shadowing(make) for name, make in _MAKERS.items()})
        try:
            yield
        finally:
            vars(np).update(_MAKERS)


def _pad(array: Any, widths: Any, *args: Any, **kwargs: Any) -> Any:
    pairs = np.broadcast_to(np.asarray(widths), (array.ndim, 2)).tolist()
    return _shadow([before + n + after for n, (before, after) in zip(array.shape, pairs, strict=True)], array.dtype)


def _concatenate(arrays: Sequence[Any], axis: int = 0, **kwargs: Any) -> Any:
    arrays = [np.asanyarray(array) for array in arrays]
    shape = list(arrays[0].shape)
    shape[axis] = sum(array.shape[axis] for array in arrays)
    return _shadow(shape, np.result_type(*(array.dtype for array in arrays)))


def _stack(arrays: Sequence[Any], axis: int = 0, **kwargs: Any) -> Any:
    arrays = [np.asanyarray(array) for array in arrays]
    shape = list(arrays[0].shape)
    shape.insert(axis if axis >= 0 else len(shape) + 1 + axis, len(arrays))
    return _shadow(shape, np.result_type(*(array.dtype for array in arrays)))


def _contiguous(array: Any, dtype: Any = None, **kwargs: Any) -> Any:
    return _shadow(array.shape, array.dtype if dtype is None else dtype)


def _einsum(subscripts: str, *operands: Any, **kwargs: Any) -> Any:
    sources, arrow, target = subscripts.replace(" ", "").partition("->")
    if not arrow or "." in subscripts:
        raise TypeError(f"the shape of einsum {subscripts!r} is not followed")
    extents: dict[str, int] = {}
    for axes, operand in zip(sources.split(","), operands, strict=True):
        extents |= zip(axes, np.shape(operand), strict=True)
    return _shadow([extents[axis] for axis in target], np.result_type(*(np.asanyarray(x).dtype for x in operands)))


def _matmul(a: Any, b: Any) -> Any:
    if np.ndim(a) != 2 or np.ndim(b) != 2:
        raise TypeError("the shape of a product of more than two axes is not followed")
    return _shadow((np.shape(a)[0], np.shape(b)[1]), np.result_type(a, b))


def _tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    if not isinstance(axes, int) or axes < 1:
        raise TypeError(f"the shape of tensordot over {axes} is not followed")
    return _shadow((*np.shape(a)[:-axes], *np.shape(b)[axes:]), np.result_type(a, b))


_RULES: dict[Any, Callable[..., Any]] = {
    np.pad: _pad,
    np.concatenate: _concatenate,
    np.stack: _stack,
    np.ascontiguousarray: _contiguous,
    np.einsum: _einsum,
    np.tensordot: _tensordot,
}
