"""Which convolutions are covered together with their pooling, and how their tiles meet the windows."""

from __future__ import annotations

from typing import Any

import pytest

from softneuro_tvm.covers import find_covers
from softneuro_tvm.device import Device
from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.layers.conv2d import Conv2dAttributes
from softneuro_tvm.layers.conv_pool import ConvPool, ConvPoolAttributes
from softneuro_tvm.layers.pool2d import Pool2dAttributes
from softneuro_tvm.registry import layer_kind, routine
from tests.support.graphs import Builder

DEVICE = Device("test", {"kind": "llvm", "mcpu": "haswell"}, vector_lanes=8, vector_registers=16, fma=True)
HALVES = Pool2dAttributes("max", (2, 2), (2, 2))


def pair(pooling: Pool2dAttributes, *outputs: str, channels: int = 4, **changes: Any) -> Graph:
    b = Builder(x=(1, 4, 8, 8), r=(1, channels, 8, 8))
    weight = b.normal(channels, 4 // changes.get("groups", 1), 3, 3)
    inputs = ("x", "r") if changes.get("residual") else ("x",)
    b.add("conv", Conv2dAttributes(padding=(1, 1, 1, 1), **changes), *inputs, weight=weight, bias=b.normal(channels))
    b.tensors["pool"] = layer_kind("pool2d").output_types(pooling, [b.tensors["conv"]], {})[0]
    b.layers.append(Layer("pool", "pool2d", pooling, ("conv",), ("pool",)))
    return b.graph("pool", *outputs)


@pytest.mark.parametrize("pooling", [HALVES, Pool2dAttributes("average", (3, 3), (2, 1), (1, 1, 1, 1))])
def test_a_pair_is_covered(pooling: Pool2dAttributes) -> None:
    (cover,) = find_covers(pair(pooling))
    assert cover.parts == ("conv", "pool") and cover.layer.inputs == ("x",) and cover.layer.outputs == ("pool",)
    assert sorted(cover.layer.weights) == ["conv.bias", "conv.weight"]


@pytest.mark.parametrize("changes", [{"groups": 2}, {"residual": True}, {"residual": "after"}])
def test_groups_and_residuals_are_not(changes: dict[str, Any]) -> None:
    assert find_covers(pair(HALVES, **changes)) == ()


def test_poolings_that_keep_the_size_or_the_whole_map_are_not() -> None:
    assert find_covers(pair(Pool2dAttributes("max", (3, 3), (1, 1), (1, 1, 1, 1)))) == ()
    assert find_covers(pair(Pool2dAttributes("average", (8, 8), (2, 2)))) == ()
    assert find_covers(pair(HALVES, "conv")) == ()


def pooled(name: str, conv: Conv2dAttributes, pool: Pool2dAttributes, kernel: int = 3, channels: int = 4) -> str | None:
    weights = {"conv.weight": TensorType((8, channels, kernel, kernel)), "conv.bias": TensorType((8,))}
    workload = ConvPool().workload(ConvPoolAttributes(conv, pool), [TensorType((1, channels, 13, 14))], weights)
    return routine(f"conv_pool/{name}").refusal(workload, DEVICE)


def test_averages_of_unequal_numbers_are_refused_by_the_stem() -> None:
    for changes, refused in (
        ({}, False),
        ({"padding": (1, 1, 1, 1), "count_include_pad": True}, False),
        ({"padding": (1, 1, 1, 1)}, True),
        ({"ceil_mode": True}, True),
    ):
        reason = pooled("pooled_stem", Conv2dAttributes(), Pool2dAttributes("average", (2, 2), (2, 2), **changes))
        assert (reason is not None) == refused and (not refused or "equally many" in str(reason))
    assert pooled("pooled_stem", Conv2dAttributes(), Pool2dAttributes("max", (2, 2), (2, 2), ceil_mode=True)) is None
    assert "8 input channels" in str(pooled("pooled_stem", Conv2dAttributes(), HALVES, channels=16))


def test_what_pooled_winograd_refuses() -> None:
    plain = Conv2dAttributes(padding=(1, 1, 1, 1))
    assert pooled("pooled_winograd", plain, HALVES) is None
    assert "odd number of taps" in str(pooled("pooled_winograd", plain, HALVES, kernel=4))
    assert "side by side" in str(pooled("pooled_winograd", plain, Pool2dAttributes("max", (3, 3), (2, 2))))
    cut = Pool2dAttributes("max", (2, 2), (2, 2), ceil_mode=True)
    assert "cut off" in str(pooled("pooled_winograd", plain, cut))
    assert "conv2d/winograd" in str(pooled("pooled_winograd", plain, HALVES, kernel=1))
