"""Routine descriptors: what they mean, and where they go wrong."""

from __future__ import annotations

import pytest

from softneuro_tvm.descriptor import Descriptor, parse, shown_layout
from softneuro_tvm.errors import DescriptorError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu", Descriptor("cpu")),
        ("cpu:NCHW16c", Descriptor("cpu", layout="nchw16c")),
        ("cpu:int8", Descriptor("cpu", "int8")),
        ("cpu:float32:scalar/relax", Descriptor("cpu", "float32", "scalar", "relax")),
        ("cpu/conv2d/winograd/m=4", Descriptor("cpu", algorithm="conv2d/winograd", params=(("m", "4"),))),
        (
            "cpu:float32:nchw8c/winograd/m=4,copy=rows@2..9,conv*",
            Descriptor("cpu", "float32", "nchw8c", "winograd", (("m", "4"), ("copy", "rows")), ("2..9", "conv*")),
        ),
        ('cpu@"a,b@c",/body/conv:0', Descriptor("cpu", layers=('"a,b@c"', "/body/conv:0"))),
    ],
)
def test_parts(text: str, expected: Descriptor) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 0, "a device must come first"),
        (":float32", 0, "a device must come first"),
        ("c pu", 0, "'c pu' is no device"),
        ("cpu:flaot32", 4, "neither an element type nor a layout"),
        ("cpu:nchw:float32", 9, "nothing may follow the layout"),
        ("cpu:nchwc", 4, "neither an element type nor a layout"),
        ("cpu/", 4, "no name of an algorithm"),
        ("cpu/direct/", 11, "no name of an algorithm"),
        ("cpu/m=4@1", 4, "an algorithm must stand before the parameters 'm=4'"),
        ("cpu/direct/m=4,rows@1", 15, "'rows' is not of the form NAME=VALUE"),
        ("cpu/direct/m=4,m=6", 15, "the parameter 'm' is given twice"),
        ("cpu@", 4, "must stand here"),
        ("cpu@a,", 6, "must stand here"),
        ('cpu@a"b', 5, "must stand here"),
    ],
)
def test_malformed_descriptors_are_refused_at_the_place(text: str, position: int, message: str) -> None:
    with pytest.raises(DescriptorError) as caught:
        parse(text)
    assert caught.value.position == position
    assert message in str(caught.value)
    assert "write it DEVICE[:DTYPE][:LAYOUT][/ALGORITHM[/PARAMS]][@LAYERS]" in str(caught.value)


CANDIDATE = "cpu:float32:nchw16c/winograd/m=4,rows=2"


@pytest.mark.parametrize(
    "text",
    ["cpu", "cpu:float32", "cpu:NCHW16c/winograd", "cpu/conv2d/winograd", "cpu/winograd/rows=2", CANDIDATE],
)
def test_what_is_left_out_is_free(text: str) -> None:
    assert parse(text).admits("conv2d/winograd", CANDIDATE)


@pytest.mark.parametrize(
    "text",
    [
        "gpu",
        "cpu:float16",
        "cpu:nchw8c",
        "cpu/dense/winograd",
        "cpu/direct",
        "cpu/winograd/m=6",
        "cpu/winograd/m=4,x=1",
    ],
)
def test_what_is_said_must_hold(text: str) -> None:
    assert not parse(text).admits("conv2d/winograd", CANDIDATE)


def test_layouts_are_shown_as_tvm_writes_them() -> None:
    assert [shown_layout(layout) for layout in ("nchw16c", "nc", "scalar")] == ["NCHW16c", "NC", "scalar"]
