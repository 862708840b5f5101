"""Placement of buffers in an arena, on random lifetimes."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from softneuro_tvm.memory import ALIGNMENT, Arena, Buffer, aligned, lower_bound, plan_arena
from softneuro_tvm.memory.exact import improve
from softneuro_tvm.memory.placement import Placement, place_greedily


@st.composite
def buffers(draw: st.DrawFn, most: int = 14, chains: bool = False) -> list[Buffer]:
    """Random lifetimes; with `chains` some may be written in place of buffers that are read at their first step."""
    made: list[Buffer] = []
    for _ in range(draw(st.integers(1, most))):
        first = draw(st.integers(0, 9))
        size = draw(st.integers(1, 6)) * 40
        readable = [i for i, other in enumerate(made) if other.first < first <= other.last]
        reuses = draw(st.lists(st.sampled_from(readable), unique=True)) if chains and readable else []
        made.append(Buffer(size, first, first + draw(st.integers(0, 4)), tuple(reuses)))
    return made


def in_place(found: list[Buffer], arena: Arena, i: int, j: int) -> bool:
    """True if one of the two may be written where the other one, read for the last time, lies."""
    i, j = sorted((i, j), key=lambda k: found[k].first)
    may = i in found[j].reuses and found[i].last == found[j].first and found[i].size_bytes == found[j].size_bytes
    return may and arena.offsets[i] == arena.offsets[j]


@given(buffers(chains=True))
def test_live_buffers_never_overlap(found: list[Buffer]) -> None:
    arena = plan_arena(found)
    ends = [offset + buffer.size_bytes for offset, buffer in zip(arena.offsets, found, strict=True)]
    assert all(offset >= 0 and offset % ALIGNMENT == 0 for offset in arena.offsets)
    assert max(ends) <= arena.size_bytes
    for i in range(len(found)):
        for j in range(i):
            apart = ends[i] <= arena.offsets[j] or ends[j] <= arena.offsets[i]
            assert apart or not found[i].overlaps(found[j]) or in_place(found, arena, i, j)


@given(buffers(chains=True))
def test_each_place_is_handed_on_once(found: list[Buffer]) -> None:
    arena = plan_arena(found)
    for i, buffer in enumerate(found):
        heirs = [j for j in range(len(found)) if j != i and buffer.overlaps(found[j]) and in_place(found, arena, i, j)]
        assert len([j for j in heirs if found[j].first == buffer.last]) <= 1


@given(buffers(chains=True))
def test_bounds(found: list[Buffer]) -> None:
    arena = plan_arena(found)
    assert arena.lower_bound_bytes <= arena.size_bytes <= sum(aligned(buffer.size_bytes) for buffer in found)
    assert arena.lower_bound_bytes <= lower_bound(found)
    assert arena == plan_arena(found)


@given(buffers())
def test_exact_is_no_worse_than_greedy(found: list[Buffer]) -> None:
    placement = Placement(found)
    greedy = place_greedily(found)
    exact, _ = improve(found, greedy, 500)
    assert lower_bound(found) <= placement.height(exact) <= placement.height(greedy)


@given(buffers(most=6))
@settings(max_examples=50)
def test_exact_is_the_best_of_all_orders(found: list[Buffer]) -> None:
    """Every placement without holes below is made by putting buffers on one another in some order."""

    def stacked(order: tuple[int, ...]) -> int:
        heights = [0] * 20
        for i in order:
            steps = range(found[i].first, found[i].last + 1)
            top = max(heights[step] for step in steps) + aligned(found[i].size_bytes)
            for step in steps:
                heights[step] = top
        return max(heights)

    apart = [sum(aligned(buffer.size_bytes) for buffer in found[:i]) for i in range(len(found))]
    exact, proved = improve(found, apart, 100_000)
    assert proved
    assert Placement(found).height(exact) == min(map(stacked, permutations(range(len(found)))))
