from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softneuro_tvm.errors import LayoutError
from softneuro_tvm.formats import (
    Format,
    TensorType,
    block_of,
    canonical_format,
    canonical_layout,
    is_padded,
    pack,
    parse_layout,
    physical_bytes,
    physical_shape,
    unpack,
)


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((1, 20, 7, 5), "NCHW8c", (1, 3, 7, 5, 8)),
        ((1, 20, 7, 5), "NHWC", (1, 7, 5, 20)),
        ((2, 32, 7, 5), "NCHW16c", (2, 2, 7, 5, 16)),
        ((3, 10), "NC4c", (3, 3, 4)),
        ((), "", ()),
    ],
)
def test_physical_shape(shape: tuple[int, ...], layout: str, expected: tuple[int, ...]) -> None:
    assert physical_shape(shape, layout) == expected


@pytest.mark.parametrize("layout", ["NC8", "nchw", "NCHW8c8c", "NNHW", "NHW8c", "NCHW1c", "N-C"])
def test_malformed_layouts_are_refused(layout: str) -> None:
    with pytest.raises(LayoutError, match=layout):
        parse_layout(layout)


def test_a_layout_of_another_rank_is_refused() -> None:
    with pytest.raises(LayoutError, match="rank 2"):
        physical_shape((2, 3), "NCHW")


@given(
    st.tuples(st.integers(1, 2), st.integers(1, 37), st.integers(1, 4), st.integers(1, 4)),
    st.sampled_from(["NCHW", "NHWC", "NCHW4c", "NCHW8c", "NCHW16c", "CHWN"]),
)
def test_pack_and_unpack_are_inverse(shape: tuple[int, ...], layout: str) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1
    packed = pack(array, layout)
    assert packed.shape == physical_shape(shape, layout)
    assert packed.sum() == array.sum()  # padding is zero
    assert np.array_equal(unpack(packed, layout, shape), array)


def test_pack_puts_channels_side_by_side() -> None:
    array = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    assert list(pack(array, "NCHW4c")[1, 0, 1, 0]) == [*array[1, :, 1, 0], 0]


def test_sizes() -> None:
    tensor = TensorType((1, 20, 2, 2))
    assert tensor.size_bytes == 320
    assert physical_bytes(tensor, Format("NCHW16c")) == 512
    assert is_padded(tensor.shape, "NCHW16c")
    assert not is_padded(tensor.shape, "NCHW4c")
    assert block_of("NCHW16c", "C") == 16
    assert canonical_format(TensorType((2, 3), "int64")) == Format("NC", "int64")
    assert canonical_layout(6) == "ABCDEF"
