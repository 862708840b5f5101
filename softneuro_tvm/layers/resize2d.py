"""Feature maps of another size: nearest neighbour and bilinear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind, Operand, Recognised

Method = Literal["nearest", "linear"]
"""One input for each output, or a mean of four."""

Coordinates = Literal["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "tf_half_pixel_for_nn"]
"""Which place of the input an output position corresponds to; names as in ONNX."""

Rounding = Literal["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]
"""Which input is nearest to a place."""


@dataclass(frozen=True)
class Taps:
    """What the output positions of one axis read.

    Args:
        low: Input index, for each output.
        high: The other one that `linear` reads, at most one more.
        fraction: Weight of `high`; 1 - weight of `low`. float64.
    """

    low: np.ndarray
    high: np.ndarray
    fraction: np.ndarray


@dataclass(frozen=True)
class Resize2dAttributes:
    """Attributes of a resize.

    Args:
        size: Height and width of the output.
        method: One input for each output, or a mean of four weighted by distance.
        coordinates: Where in the input an output lies.
        rounding: Which input is taken; ``floor`` for ``linear``.
    """

    size: tuple[int, int]
    method: Method = "nearest"
    coordinates: Coordinates = "half_pixel"
    rounding: Rounding = "floor"

    def line(self, axis: int, source: int) -> tuple[int, int, int]:
        """(a, b, c): output i of an axis of `source` inputs reads input floor((a i + b) / c), kept inside the axis.

        For ``linear`` the remainder over c is the weight of the input after that.
        """
        target = self.size[axis]
        half_pixel = (2 * source, source - target, 2 * target)
        is_one = target == 1
        a, b, c = {
            "half_pixel": half_pixel,
            "pytorch_half_pixel": (0, 0, 1) if is_one else half_pixel,
            "tf_half_pixel_for_nn": (2 * source, source, 2 * target),
            "align_corners": (0, 0, 1) if is_one else (source - 1, 0, target - 1),
            "asymmetric": (source, 0, target),
        }[self.coordinates]
        return {
            "floor": (a, b, c),
            "ceil": (a, b + c - 1, c),
            "round_prefer_floor": (2 * a, 2 * b + c - 1, 2 * c),
            "round_prefer_ceil": (2 * a, 2 * b + c, 2 * c),
        }[self.rounding]

    def taps(self, axis: int, source: int) -> Taps:
        """What the outputs of an axis read."""
        a, b, c = self.line(axis, source)
        low, remainder = np.divmod(np.arange(self.size[axis]) * a + b, c)
        after = 1 if self.method == "linear" else 0
        fraction = remainder / c if self.method == "linear" else np.zeros(self.size[axis])
        return Taps(low.clip(0, source - 1), (low + after).clip(0, source - 1), fraction)


class Resize2d(LayerKind):
    """Shapes: x [N, C, H, W]; y [N, C, OH, OW]."""

    name = "resize2d"
    Attributes = Resize2dAttributes
    relax_operators = ("relax.image.resize2d",)

    def from_relax(self, operator: str, attrs: Any, operands: Sequence[Operand]) -> Recognised | None:
        """Recognises float32 NCHW resizing by the nearest neighbour or linear, except of a region of interest."""
        data, size = operands
        if data.value is not None or size.value is None or data.type.dtype != "float32" or attrs.layout != "NCHW":
            return None
        if attrs.out_dtype not in (None, "", "void", "float32"):
            return None
        coordinates = str(attrs.coordinate_transformation_mode)
        if coordinates not in get_args(Coordinates) or attrs.method not in ("nearest_neighbor", "linear"):
            return None
        rounding = str(attrs.rounding_method)
        if attrs.method == "linear":
            rounding = "floor"
        elif rounding == "":
            rounding = "round" if coordinates == "align_corners" else "floor"
        attributes = Resize2dAttributes(
            (int(size.value[0]), int(size.value[1])),
            "linear" if attrs.method == "linear" else "nearest",
            cast(Coordinates, coordinates),
        )
        if rounding == "round":
            return _rounded(attributes, data.type)
        if rounding not in get_args(Rounding):
            return None
        return Recognised(replace(attributes, rounding=cast(Rounding, rounding)), (0,), {})

    def output_types(
        self, attributes: Resize2dAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """Shape [N, C, OH, OW]."""
        return (TensorType((*inputs[0].shape[:2], *attributes.size), inputs[0].dtype),)

    def reference(
        self, attributes: Resize2dAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """Rows first, then columns."""
        (x,) = inputs
        rows, columns = (attributes.taps(axis, x.shape[2 + axis]) for axis in (0, 1))
        if attributes.method == "nearest":
            return (x[:, :, rows.low][..., columns.low],)
        share = rows.fraction.astype(x.dtype)[:, None]
        tall = x[:, :, rows.low] * (1 - share) + x[:, :, rows.high] * share
        share = columns.fraction.astype(x.dtype)
        return (tall[..., columns.low] * (1 - share) + tall[..., columns.high] * share,)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """Whole-number arithmetic for the places, so that they are exact; means of four for ``linear``."""
        from tvm import te, tirx

        attributes, (x,) = workload.attributes, inputs
        sizes = workload.inputs[0].shape[2:]

        def place(axis: int, index: Any) -> tuple[Any, Any, Any]:
            """Both inputs and the weight of the second."""
            a, b, c = attributes.line(axis, sizes[axis])
            value = index * a + b
            low, last = tirx.floordiv(value, c), sizes[axis] - 1
            share = tirx.Cast("float32", tirx.floormod(value, c)) * tirx.const(1 / c, "float32")
            return tirx.max(0, tirx.min(low, last)), tirx.max(0, tirx.min(low + 1, last)), share

        def nearest(n: Any, c: Any, i: Any, j: Any) -> Any:
            return x[n, c, place(0, i)[0], place(1, j)[0]]

        def linear(n: Any, c: Any, i: Any, j: Any) -> Any:
            (top, bottom, down), (left, right, across) = place(0, i), place(1, j)
            upper = x[n, c, top, left] + (x[n, c, top, right] - x[n, c, top, left]) * across
            lower = x[n, c, bottom, left] + (x[n, c, bottom, right] - x[n, c, bottom, left]) * across
            return upper + (lower - upper) * down

        rule = nearest if attributes.method == "nearest" else linear
        return [te.compute(workload.outputs[0].shape, rule, "resize2d")]

    def flops(self, workload: Workload) -> int:
        """None for the nearest neighbour; for linear three differences, products and sums for each output."""
        return 0 if workload.attributes.method == "nearest" else 9 * int(np.prod(workload.outputs[0].shape))

    def examples(self) -> Iterable[Workload]:
        """Whole and broken factors, up and down, every mode and rounding, uneven channels, batches, single rows."""
        linear: Method = "linear"
        cases: list[tuple[tuple[int, int, int, int], Resize2dAttributes]] = [
            ((1, 16, 9, 11), Resize2dAttributes((18, 22), coordinates="asymmetric")),
            ((2, 20, 7, 20), Resize2dAttributes((14, 40), rounding="round_prefer_floor")),
            ((1, 5, 6, 37), Resize2dAttributes((18, 111), rounding="round_prefer_ceil")),
            ((1, 40, 8, 9), Resize2dAttributes((16, 18), coordinates="asymmetric", rounding="round_prefer_ceil")),
            ((1, 3, 10, 12), Resize2dAttributes((20, 24), coordinates="asymmetric", rounding="ceil")),
            ((2, 7, 9, 8), Resize2dAttributes((5, 3), coordinates="tf_half_pixel_for_nn")),
            ((1, 16, 5, 7), Resize2dAttributes((13, 9), coordinates="align_corners", rounding="round_prefer_ceil")),
            (
                (1, 24, 6, 6),
                Resize2dAttributes((1, 1), coordinates="pytorch_half_pixel", rounding="round_prefer_floor"),
            ),
            ((1, 16, 9, 11), Resize2dAttributes((18, 22), linear)),
            ((2, 20, 7, 20), Resize2dAttributes((14, 40), linear, "asymmetric")),
            ((1, 21, 5, 33), Resize2dAttributes((20, 132), linear, "pytorch_half_pixel")),
            ((2, 3, 4, 17), Resize2dAttributes((12, 51), linear)),
            ((1, 35, 8, 9), Resize2dAttributes((15, 19), linear, "align_corners")),
            ((1, 5, 20, 30), Resize2dAttributes((7, 13), linear)),
            ((1, 8, 1, 1), Resize2dAttributes((6, 5), linear, "align_corners")),
            ((1, 9, 6, 6), Resize2dAttributes((1, 1), linear, "pytorch_half_pixel")),
        ]
        for shape, attributes in cases:
            yield self.workload(attributes, [TensorType(shape)])


def _rounded(attributes: Resize2dAttributes, data: TensorType) -> Recognised | None:
    """TVM's ``round`` takes the even neighbour of two: as one of ONNX's roundings if that reads the same inputs."""
    wanted = []
    for axis in (0, 1):
        a, b, c = attributes.line(axis, data.shape[2 + axis])
        places = (np.arange(attributes.size[axis]) * a + b) / c  # halves are exact
        wanted.append(np.rint(places).astype(np.int64).clip(0, data.shape[2 + axis] - 1))
    roundings: tuple[Rounding, ...] = ("round_prefer_floor", "round_prefer_ceil")
    for rounding in roundings:
        changed = replace(attributes, rounding=rounding)
        if all(np.array_equal(changed.taps(axis, data.shape[2 + axis]).low, wanted[axis]) for axis in (0, 1)):
            return Recognised(changed, (0,), {})
    return None
