"""Routine descriptors are read back as they are written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from softneuro_tvm.descriptor import Descriptor, parse
from softneuro_tvm.errors import DescriptorError

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,8}", fullmatch=True)
DTYPES = st.sampled_from(["", "float32", "float16", "bfloat16", "int8", "uint8", "int64", "bool"])
LAYOUTS = st.sampled_from(["", "nchw", "nhwc", "nchw8c", "nchw16c", "nc", "ncw", "scalar", "abcdef"])
ALGORITHMS = st.lists(NAMES, max_size=2).map("/".join)
VALUES = st.one_of(st.integers().map(str), NAMES)
LAYERS = st.one_of(
    st.from_regex(r'[^",\s]{1,8}', fullmatch=True),
    st.from_regex(r'"[^"]{1,8}"', fullmatch=True),
    st.from_regex(r"[0-9]{1,3}\.\.[0-9]{1,3}", fullmatch=True),
)


@st.composite
def descriptors(draw: st.DrawFn) -> Descriptor:
    algorithm = draw(ALGORITHMS)
    params = draw(st.dictionaries(NAMES, VALUES, max_size=3)) if algorithm else {}
    layers = draw(st.lists(LAYERS, max_size=3))
    return Descriptor(draw(NAMES), draw(DTYPES), draw(LAYOUTS), algorithm, tuple(params.items()), tuple(layers))


@given(descriptors())
def test_what_is_written_is_read_back(descriptor: Descriptor) -> None:
    assert parse(str(descriptor)) == descriptor
    assert str(parse(str(descriptor))) == str(descriptor)


@given(st.text(alphabet='cpu:/@=,.*"048[]nhwfloatm ', max_size=20))
def test_any_text_is_read_or_refused_at_a_place(text: str) -> None:
    try:
        found = parse(text)
    except DescriptorError as error:
        assert 0 <= error.position <= len(text)
        assert error.text == text
        line, marker = str(error).splitlines()[-2:]
        assert (line, marker) == (f"  {text}", f"  {' ' * error.position}^")
    else:
        assert parse(str(found)) == found
