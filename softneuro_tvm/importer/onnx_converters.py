"""Converters that replace some of TVM's: they keep visible what layers are made of.."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst
from tvm.relax.frontend.onnx import onnx_frontend as frontend

from softneuro_tvm.importer.relax_module import array_of, constant_of, static_type


def _is_float(value: Any) -> bool:
    return str(value.ty.dtype) in ("float16", "float32", "float64")


class _Clip(frontend.Clip):  # type: ignore[misc]
    """Constant bounds give ``relax.clip``; the front end's own converter hides them in kernels."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: dict[str, Any], params: Any) -> Any:
        low, high = float(attr.get("min", -math.inf)), float(attr.get("max", math.inf))
        clipped = cls._clipped(inputs[0], low, high)
        return super()._impl_v1(bb, inputs, attr, params) if clipped is None else clipped

    @classmethod
    def _impl_v13(cls, bb: Any, inputs: Any, attr: dict[str, Any], params: Any) -> Any:
        low = cls._bound(inputs[1], params, -math.inf)
        high = cls._bound(inputs[2], params, math.inf)
        clipped = None if low is None or high is None else cls._clipped(inputs[0], low, high)
        return super()._impl_v13(bb, inputs, attr, params) if clipped is None else clipped

    @staticmethod
    def _bound(value: Any, params: Any, default: float) -> float | None:
        """The number that a bound is; None if it is not constant. Not-a-number means no bound."""
        if value is None:
            return default
        constant = frontend.get_constant(value, params)
        if not isinstance(constant, GenericConst) or array_of(constant).size != 1:
            return None
        number = float(array_of(constant).reshape(()))
        return default if math.isnan(number) else number

    @staticmethod
    def _clipped(x: Any, low: float, high: float) -> Any:
        if not _is_float(x) or low > high:
            return None
        if math.isfinite(low) and math.isfinite(high):
            return relax.op.clip(x, low, high)
        if math.isfinite(low):
            return relax.op.nn.relu(x) if low == 0 else relax.op.maximum(x, relax.const(low, str(x.ty.dtype)))
        if math.isfinite(high):
            return relax.op.minimum(x, relax.const(high, str(x.ty.dtype)))
        return x if (low, high) == (-math.inf, math.inf) else None


def _with_height(attr: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a one-dimensional window as those of a window of height 1."""
    wide = dict(attr)
    for key in ("kernel_shape", "strides", "dilations"):
        if key in attr:
            wide[key] = [1, *attr[key]]
    if "pads" in attr:
        wide["pads"] = [0, attr["pads"][0], 0, attr["pads"][1]]
    return wide


class _Conv(frontend.Conv):  # type: ignore[misc]
    """Turns ``auto_pad`` into padding, shapes a constant bias at once, and makes maps of sequences."""

    @classmethod
    def _impl_v11(cls, bb: Any, inputs: Any, attr: dict[str, Any], params: Any) -> Any:
        data, weight, bias = inputs[0], inputs[1], inputs[2]
        if data.ty.ndim == 3 and isinstance(weight, GenericConst):
            wide = constant_of(np.expand_dims(array_of(weight), 2))
            maps = bb.normalize(relax.op.expand_dims(data, 2))
            result = cls._impl_v11(bb, [maps, wide, bias], _with_height(attr), params)
            return relax.op.squeeze(result, [2])
        attr = cls._padded(data, weight, attr)
        if not isinstance(bias, GenericConst):
            return super()._impl_v11(bb, [data, weight, bias], attr, params)
        result = super()._impl_v11(bb, [data, weight, None], attr, params)
        return relax.op.add(result, constant_of(array_of(bias).reshape(1, -1, *[1] * (data.ty.ndim - 2))))

    @staticmethod
    def _padded(data: Any, weight: Any, attr: dict[str, Any]) -> dict[str, Any]:
        """The attributes with padding instead of ``auto_pad``, if the shape is known."""
        mode, data_type = attr.get("auto_pad", b"NOTSET").decode(), static_type(data.ty)
        if mode not in ("SAME_UPPER", "SAME_LOWER") or data_type is None:
            return attr
        maps = data_type.shape[2:]
        kernel = attr.get("kernel_shape") or [int(n) for n in weight.ty.shape][2:]
        strides, dilations = attr.get("strides", [1] * len(maps)), attr.get("dilations", [1] * len(maps))
        before, after = [], []
        for extent, taps, stride, dilation in zip(maps, kernel, strides, dilations, strict=True):
            total = max((taps - 1) * dilation + 1 - (extent % stride or stride), 0)
            small, large = total // 2, total - total // 2
            before.append(small if mode == "SAME_UPPER" else large)
            after.append(large if mode == "SAME_UPPER" else small)
        return {**attr, "auto_pad": b"NOTSET", "pads": before + after}


class _Sequences:
    """Mixin: pools sequences as maps of height 1."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: dict[str, Any], params: Any) -> Any:
        pool: Any = super()
        if inputs[0].ty.ndim != 3:
            return pool._impl_v1(bb, inputs, attr, params)
        wide = bb.normalize(relax.op.expand_dims(inputs[0], 2))
        return relax.op.squeeze(pool._impl_v1(bb, [wide], _with_height(attr), params), [2])


class _AveragePool(_Sequences, frontend.AveragePool):  # type: ignore[misc]
    pass


class _MaxPool(_Sequences, frontend.MaxPool):  # type: ignore[misc]
    pass


class _Gather(frontend.Gather):  # type: ignore[misc]
    """Constant indices at even distances give a slice, a view of which is the result."""

    @classmethod
    def _impl_v13(cls, bb: Any, inputs: Any, attr: dict[str, Any], params: Any) -> Any:
        sliced = cls._slice(inputs[0], inputs[1], attr.get("axis", 0))
        return super()._impl_v13(bb, inputs, attr, params) if sliced is None else sliced

    @staticmethod
    def _slice(data: Any, indices: Any, axis: int) -> Any:
        data_type = static_type(data.ty)
        if data_type is None or isinstance(data, GenericConst) or not isinstance(indices, GenericConst):
            return None
        axis %= data_type.rank
        extent, array = data_type.shape[axis], array_of(indices)
        places = np.where(array < 0, array + extent, array).reshape(-1).tolist()
        step = places[1] - places[0] if len(places) > 1 else 1
        if not places or step < 1 or places != list(range(places[0], places[-1] + 1, step)) or places[-1] >= extent:
            return None
        part = relax.op.strided_slice(data, [axis], [places[0]], [places[-1] + 1], [step])
        return relax.op.reshape(part, (*data_type.shape[:axis], *array.shape, *data_type.shape[axis + 1 :]))


class _Gemm(frontend.Gemm):  # type: ignore[misc]
    """Transposes a constant matrix at once."""

    @classmethod
    def _impl_v13(cls, bb: Any, inputs: Any, attr: dict[str, Any], params: Any) -> Any:
        if attr.get("transB") and isinstance(inputs[1], GenericConst):
            inputs = [inputs[0], constant_of(array_of(inputs[1]).T), inputs[2]]
            attr = {**attr, "transB": 0}
        return super()._impl_v13(bb, inputs, attr, params)


class _Pad(frontend.Pad):  # type: ignore[misc]
    """Padding with a number gives ``relax.nn.pad``, which can be folded into what follows."""

    @classmethod
    def _impl_v2(cls, bb: Any, inputs: Any, attr: dict[str, Any], params: Any) -> Any:
        pads = attr["pads"]
        padded = cls._padded(inputs[0], attr, pads[: len(pads) // 2], pads[len(pads) // 2 :], attr.get("value", 0.0))
        return super()._impl_v2(bb, inputs, attr, params) if padded is None else padded

    @classmethod
    def _lower_pad(cls, bb: Any, inputs: Any, attr: dict[str, Any], params: Any, allowed_modes: Any) -> Any:
        before, after, value = cls._parse_pads_and_axes(inputs, params)
        padded = cls._padded(inputs[0], attr, before, after, value)
        return super()._lower_pad(bb, inputs, attr, params, allowed_modes) if padded is None else padded

    @staticmethod
    def _padded(x: Any, attr: dict[str, Any], before: Any, after: Any, value: float) -> Any:
        if attr.get("mode", b"constant") != b"constant" or not _is_float(x) or min(*before, *after, 0) < 0:
            return None
        widths = [int(width) for pair in zip(before, after, strict=True) for width in pair]
        return relax.op.nn.pad(x, widths, "constant", float(value))


class _DequantizeLinear(frontend.DequantizeLinear):  # type: ignore[misc]
    """Constants become numbers at once: TVM would compile a kernel for each of them."""

    @classmethod
    def get_converter(cls, opset: int) -> Any:
        """A converter that leaves everything but such constants to the front end's own."""
        converter = super().get_converter(opset)

        def convert(bb: Any, inputs: Any, attr: dict[str, Any], params: Any) -> Any:
            constants = [array_of(tensor) for tensor in inputs if isinstance(tensor, GenericConst)]
            is_constant = len(constants) == len([tensor for tensor in inputs if tensor is not None])
            numbers = cls._numbers(constants, attr) if is_constant else None
            return converter(bb, inputs, attr, params) if numbers is None else constant_of(numbers)

        return convert

    @staticmethod
    def _numbers(constants: list[np.ndarray], attr: dict[str, Any]) -> np.ndarray | None:
        """What constants stand for; None if their types or scales are unusual."""
        tensor, *parameters = constants
        is_usual = tensor.dtype.kind in "iu" and parameters[0].dtype == np.float32
        if not is_usual or attr.get("block_size") or any(parameter.ndim > 1 for parameter in parameters):
            return None
        shape = [1] * tensor.ndim
        if tensor.ndim:
            shape[attr.get("axis", 1) if tensor.ndim > 1 else 0] = -1
        scale, *zero_point = (each.reshape(shape if each.size > 1 else ()) for each in parameters)
        centred = tensor.astype(np.int64) - (zero_point[0].astype(np.int64) if zero_point else 0)
        return np.asarray(centred.astype(np.float32) * scale)


CONVERTERS = {
    "AveragePool": _AveragePool,
    "Clip": _Clip,
    "Conv": _Conv,
    "DequantizeLinear": _DequantizeLinear,
    "Gather": _Gather,
    "Gemm": _Gemm,
    "MaxPool": _MaxPool,
    "Pad": _Pad,
}
"""By operator type."""
