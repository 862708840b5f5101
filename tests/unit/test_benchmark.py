"""Comparing engines: an engine that fails is a row with its reason, and takes nothing else down."""

from __future__ import annotations

import numpy as np
import pytest

from softneuro_tvm import zoo
from softneuro_tvm.benchmark import EngineResult, _relative_error, compare
from softneuro_tvm.errors import ProfileError


def test_an_engine_that_fails_is_a_row_with_its_reason() -> None:
    inputs = zoo.sample_input("digits")
    sources = [("softneuro_tvm", "absent.so"), ("onnxruntime", "zoo:digits")]
    broken, fine = compare(sources, inputs, threads=1, rounds=1)
    assert "absent.so" in broken.message
    assert not broken.samples_s
    assert fine.samples_s and fine.error == 0
    assert 0 < fine.min_s <= fine.median_s


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(ProfileError, match="there is no engine 'fast'"):
        compare([("fast", "zoo:digits")], {}, threads=1)


def test_results() -> None:
    assert EngineResult("x").median_s == float("inf")
    assert EngineResult("x", [3.0, 1.0, 2.0]).median_s == 2
    slow, fast = EngineResult("x", turns_s=[2.0, 9.0, 4.2]), EngineResult("y", turns_s=[1.0, 3.0, 2.0])
    assert slow.times(fast) == 2.1 and slow.times(slow) == 1.0
    assert slow.times(EngineResult("z")) == float("inf")
    one = [np.array([1.0, 2.0])]
    assert _relative_error([np.array([[1.0], [2.2]])], one) == pytest.approx(0.1)
    assert _relative_error([np.zeros(3)], one) == float("inf")
