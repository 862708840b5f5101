"""What convolutions, transposed convolutions and dense layers have in common: recognition, the sum, the epilogue."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import Operand

Residual = bool | Literal["after"]
"""Where a second input of the output's shape is added: True before the activation, ``after`` it; False if nowhere."""


def constant_weight(attrs: Any, kernel_layout: str, operands: Sequence[Operand]) -> np.ndarray | None:
    """The weight of a float32 NCHW operator; None if it is not constant, or lies in another layout."""
    data, weight = operands
    is_float32 = data.type.dtype == weight.type.dtype == "float32" and attrs.out_dtype in (None, "", "void", "float32")
    is_nchw = attrs.data_layout == "NCHW" and attrs.out_layout in ("", "NCHW")
    return weight.value if is_float32 and is_nchw and attrs.kernel_layout == kernel_layout else None


def four_sides(padding: Sequence[Any]) -> tuple[int, int, int, int]:
    """TVM's padding, given for all sides, for (vertical, horizontal) or as (top, left, bottom, right)."""
    given = [int(extent) for extent in padding]
    top, left, bottom, right = given if len(given) == 4 else given * 2 if len(given) == 2 else given * 4
    return top, left, bottom, right


def sum_te(
    workload: Workload, x: Any, weight: Any, outside: int = 0, product: Callable[[Any, Any], Any] = operator.mul
) -> Any:
    """Padding and the direct sum of a convolution as a TE tensor, named like the layer kind.

    Args:
        workload: Its attributes have strides, padding, dilation and groups.
        x: The input, [N, C, H, W].
        weight: [K, C / groups, R, S].
        outside: The element that pads the input.
        product: Multiplies an element of the input by one of the weight.
    """
    from tvm import te, tirx, topi

    attributes = workload.attributes
    top, left, bottom, right = attributes.padding
    if any(attributes.padding):
        x = topi.nn.pad(x, (0, 0, top, left), (0, 0, bottom, right), tirx.const(outside, x.dtype), name="pad")
    (sy, sx), (dy, dx) = attributes.strides, attributes.dilation
    k, c_group, r_extent, s_extent = (int(extent) for extent in weight.shape)
    k_group = k // attributes.groups
    c, r, s = te.reduce_axis((0, c_group)), te.reduce_axis((0, r_extent)), te.reduce_axis((0, s_extent))

    def summed(n: Any, f: Any, y: Any, z: Any) -> Any:
        element = x[n, f // k_group * c_group + c, y * sy + r * dy, z * sx + s * dx]
        return te.sum(product(element, weight[f, c, r, s]), [c, r, s])

    return te.compute(workload.outputs[0].shape, summed, workload.kind)


def activated(total: Any, residual: Residual, other: Callable[[], Any], activate: Callable[[Any], Any]) -> Any:
    """The activation of a sum, with the residual: of arrays, of TE expressions, of vectors in a kernel.

    Args:
        total: The sum, bias included.
        residual: Where it is added.
        other: Gives the residual; called only if there is one.
        activate: Applies the activation.
    """
    value = activate(total + other() if residual is True else total)
    return value + other() if residual == "after" else value


def epilogue_reference(
    attributes: Any, total: np.ndarray, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Bias, residual (the second input) and activation on [N, K, OH, OW], in numpy."""
    y = total + weights["bias"].reshape(1, -1, 1, 1)
    slope = weights["slope"].reshape(1, -1, 1, 1) if "slope" in weights else None
    function = attributes.activation.reference
    return np.asarray(activated(y, attributes.residual, lambda: inputs[1], lambda y: function(y, slope)))


def epilogue_te(attributes: Any, total: Any, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Any:
    """The same as a TE tensor."""
    from tvm import te

    from softneuro_tvm.layers._te import activate

    def element(n: Any, k: Any, y: Any, x: Any) -> Any:
        slope = weights["slope"][k] if "slope" in weights else None
        return activated(
            total[n, k, y, x] + weights["bias"][k],
            attributes.residual,
            lambda: inputs[1][n, k, y, x],
            lambda value: activate(value, attributes.activation, slope),
        )

    return te.compute(total.shape, element, "epilogue")
