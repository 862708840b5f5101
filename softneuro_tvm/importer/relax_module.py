"""Prepares a Relax module: finds the function, binds its parameters, folds constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from softneuro_tvm.errors import DynamicShapeError, ModelError
from softneuro_tvm.formats import TensorType
from softneuro_tvm.layers.relax import tensor_type


def static_type(value_type: Any) -> TensorType | None:
    """The type of a tensor whose shape is known; None for everything else."""
    found = tensor_type(value_type)
    return None if found is None or found.is_open else found


def array_of(constant: Any) -> np.ndarray:
    """A constant's values, in its own memory and read-only where numpy knows the element type."""
    try:
        return np.from_dlpack(constant.value)
    except (BufferError, RuntimeError, TypeError):
        return np.asarray(constant.value.numpy())


def constant_of(array: np.ndarray) -> Any:
    """A Relax constant of the array's own element type."""
    return relax.const(tvm.runtime.tensor(np.ascontiguousarray(array).reshape(array.shape)))


def entry_function(module: Any) -> str:
    """Name of the function that is the model: ``main``, or the only one.

    Raises:
        ModelError: there is no such function.
    """
    names = [str(var.name_hint) for var, function in module.functions_items() if isinstance(function, relax.Function)]
    if "main" in names or len(names) == 1:
        return "main" if "main" in names else names[0]
    raise ModelError(f"the module needs a Relax function called 'main'; it has {', '.join(map(repr, names)) or 'none'}")


def prepare(module: Any, input_shapes: Mapping[str, Sequence[int]]) -> Any:
    """The module with one Relax function ``main`` where there can be one, parameters bound and constants folded.

    Raises:
        ModelError: an input name that does not exist, a wrong rank.
        DynamicShapeError: an input whose shape has extents without a value.
    """
    name = entry_function(module)
    function = module[name]
    parameters = list(function.attrs["params"]) if function.attrs and "params" in function.attrs else []
    if parameters:
        bound = list(function.params)[-len(parameters) :]
        module = module.clone()
        module[name] = function.without_attr("params")
        module = relax.transform.BindParams(name, dict(zip(bound, parameters, strict=True)))(module)
    module = _bind_shapes(module, name, input_shapes)
    passes = [
        relax.transform.Normalize(),
        relax.transform.InlinePrivateFunctions(),
        relax.transform.FoldConstant(),
        relax.transform.CanonicalizeBindings(),
        relax.transform.DeadCodeElimination([name]),
    ]
    with tvm.transform.PassContext(opt_level=3):
        module = tvm.transform.Sequential(passes)(module)
    for parameter in module[name].params:
        if isinstance(parameter.ty, relax.TensorType) and static_type(parameter.ty) is None:
            raise DynamicShapeError(
                f"input {parameter.name!r} has the shape {parameter.ty.shape}; routines are chosen for fixed shapes: "
                f'give it, for example --input-shapes "{parameter.name}:[{_remedy(parameter)}]"'
            )
        if static_type(parameter.ty) is None:
            raise ModelError(f"input {parameter.name!r} is a {parameter.ty}; only tensors are supported")
    return module


def _bind_shapes(module: Any, name: str, input_shapes: Mapping[str, Sequence[int]]) -> Any:
    """Replaces symbolic extents of inputs by numbers."""
    inputs = {parameter.name: parameter for parameter in module[name].params}
    numbers: dict[str, int] = {}
    for key, shape in input_shapes.items():
        if key not in inputs:
            raise ModelError(f"there is no input {key!r}; the model's inputs are {', '.join(map(repr, inputs))}")
        extents = list(inputs[key].ty.shape.values) if inputs[key].ty.shape is not None else []
        if len(extents) != len(shape) or any(extent < 0 for extent in shape):
            raise ModelError(f"input {key!r} has {len(extents)} axes; the shape {list(shape)} does not fit")
        for axis, (extent, number) in enumerate(zip(extents, shape, strict=True)):
            if isinstance(extent, tvm.tirx.IntImm):
                if int(extent) != number:
                    raise ModelError(f"input {key!r} has extent {int(extent)} at axis {axis}, not {number}")
            else:
                numbers[str(extent.name)] = number
    return relax.transform.BindSymbolicVars(numbers, name)(module) if numbers else module


def _remedy(parameter: Any) -> str:
    if parameter.ty.shape is None:
        return "1,3,224,224"
    return ",".join(str(int(n)) if isinstance(n, tvm.tirx.IntImm) else "1" for n in parameter.ty.shape.values)
