"""Placement of buffers in an arena, on cases worked out by hand."""

from __future__ import annotations

from softneuro_tvm.memory import ALIGNMENT, Buffer, lower_bound, plan_arena
from softneuro_tvm.memory.exact import improve
from softneuro_tvm.memory.placement import Placement, place_greedily


def test_nothing() -> None:
    arena = plan_arena([])
    assert (arena.offsets, arena.size_bytes, arena.lower_bound_bytes, arena.proved) == ((), 0, 0, True)


def test_a_chain_needs_two_buffers_at_a_time() -> None:
    arena = plan_arena([Buffer(640, step, step + 1) for step in range(5)])
    assert arena.size_bytes == arena.lower_bound_bytes == 1280
    assert arena.offsets[0] == arena.offsets[2] == arena.offsets[4] != arena.offsets[1] == arena.offsets[3]


def test_sizes_are_rounded_up() -> None:
    arena = plan_arena([Buffer(1, 0, 1), Buffer(65, 0, 1)])
    assert arena.size_bytes == 192


def test_a_chain_in_place_needs_one_buffer() -> None:
    arena = plan_arena([Buffer(640, 0, 1), Buffer(640, 1, 2, (0,)), Buffer(640, 2, 3, (1,))])
    assert arena.offsets == (0, 0, 0)
    assert arena.size_bytes == arena.lower_bound_bytes == 640


def test_not_in_place_of_a_buffer_that_is_read_later() -> None:
    arena = plan_arena([Buffer(640, 0, 2), Buffer(640, 1, 3, (0,))])
    assert arena.size_bytes == 1280


def test_not_in_place_of_a_buffer_of_another_size() -> None:
    assert plan_arena([Buffer(640, 0, 1), Buffer(64, 1, 2, (0,))]).size_bytes == 704


def test_only_one_takes_a_place() -> None:
    arena = plan_arena([Buffer(640, 0, 1), Buffer(640, 1, 2, (0,)), Buffer(640, 1, 2, (0,))])
    assert arena.size_bytes == 1280


def test_a_place_taken_by_a_result_that_nobody_reads_is_not_taken_again() -> None:
    arena = plan_arena([Buffer(640, 0, 1), Buffer(640, 1, 1, (0,)), Buffer(640, 1, 2, (0,))])
    assert arena.size_bytes == 1280


def lines(*found: tuple[int, int, int]) -> list[Buffer]:
    """Buffers from cache lines, first and last step."""
    return [Buffer(size * ALIGNMENT, first, last) for size, first, last in found]


def test_repairs_find_what_the_orders_miss() -> None:
    buffers = lines((2, 1, 4), (2, 1, 1), (5, 3, 6), (4, 1, 2), (3, 6, 7))
    placement = Placement(buffers)
    assert min(placement.height(placement.place(order)) for order in placement.orders()) == 9 * ALIGNMENT
    assert placement.height(place_greedily(buffers)) == lower_bound(buffers) == 8 * ALIGNMENT


def test_the_exact_search_finds_what_repairs_miss() -> None:
    buffers = lines((6, 1, 4), (6, 6, 7), (4, 5, 7), (4, 4, 7), (2, 4, 5))
    assert Placement(buffers).height(place_greedily(buffers)) == 16 * ALIGNMENT
    arena = plan_arena(buffers)
    assert arena.size_bytes == arena.lower_bound_bytes == 14 * ALIGNMENT
    assert arena.proved


def test_no_search_without_nodes() -> None:
    buffers = [Buffer(64, 0, 1), Buffer(64, 1, 2)]
    found, proved = improve(buffers, [0, 128], 0)
    assert (found, proved) == ([0, 128], False)


def test_parts_lie_within_the_whole_from_the_first_that_is_written() -> None:
    parts = [Buffer(640, 0, 2), Buffer(128, 1, 2), Buffer(768, 2, 3)]
    arena = plan_arena([*parts, Buffer(64, 0, 1)], {0: (2, 0), 1: (2, 640)})
    assert arena.offsets[1] - arena.offsets[0] == 640 and arena.offsets[2] == arena.offsets[0]
    assert arena.size_bytes == arena.lower_bound_bytes == 768 + 64


def test_wholes_may_be_parts() -> None:
    buffers = [Buffer(64, 0, 9), Buffer(64, 1, 2), Buffer(128, 2, 3), Buffer(64, 3, 4), Buffer(192, 4, 5)]
    arena = plan_arena(buffers, {0: (2, 0), 1: (2, 64), 2: (4, 0), 3: (4, 128)})
    assert [offset - arena.offsets[4] for offset in arena.offsets] == [0, 64, 0, 128, 0]
    assert arena.size_bytes == 192


def test_the_whole_is_kept_for_a_part_that_is_read_last() -> None:
    buffers = [Buffer(64, 0, 3), Buffer(64, 0, 1), Buffer(128, 1, 2), Buffer(128, 3, 4)]
    arena = plan_arena(buffers, {0: (2, 0), 1: (2, 64)})
    assert arena.size_bytes == 256


def test_parts_take_no_place_and_give_none_away() -> None:
    # 1 could be written in place of 0, 3 in place of 1, were 1 no part of 2
    buffers = [Buffer(64, 0, 1), Buffer(64, 1, 2, (0,)), Buffer(128, 2, 4), Buffer(64, 2, 3, (1,))]
    arena = plan_arena(buffers, {1: (2, 64)})
    assert arena.size_bytes == 192
    assert arena.offsets[1] == arena.offsets[2] + 64


def test_in_place_of_a_whole() -> None:
    buffers = [Buffer(64, 0, 1), Buffer(128, 1, 2), Buffer(128, 2, 3, (1,))]
    assert plan_arena(buffers, {0: (1, 64)}).size_bytes == 128


def test_not_in_place_of_a_whole_whose_part_is_read_later() -> None:
    buffers = [Buffer(64, 0, 3), Buffer(128, 1, 2), Buffer(128, 2, 3, (1,))]
    assert plan_arena(buffers, {0: (1, 64)}).size_bytes == 256


def test_what_is_written_piece_by_piece_takes_no_place() -> None:
    buffers = [Buffer(128, 0, 2), Buffer(64, 1, 2), Buffer(128, 2, 3, (0,))]
    arena = plan_arena(buffers, {1: (2, 0)})
    assert arena.size_bytes == 256
