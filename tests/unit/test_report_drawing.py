"""The drawing of networks, and the order of calls."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from softneuro_tvm.report.layered import draw
from softneuro_tvm.report.network import network
from softneuro_tvm.report.timeline import layouts, steps
from tests.support.made_up_plans import BLOCKED, PLAIN, adapter, branching, layer, plan


def random_edges(count: int, seed: int) -> list[tuple[int, int]]:
    rng = random.Random(seed)
    edges = [(rng.randrange(max(0, i - 6), i), i) for i in range(1, count)]
    return edges + [tuple(sorted(rng.sample(range(count), 2))) for _ in range(count // 3)]  # type: ignore[misc]


@pytest.mark.parametrize("seed", range(4))
def test_boxes_do_not_touch_and_edges_lead_down(seed: int) -> None:
    rng = random.Random(seed)
    sizes = [(rng.choice((60.0, 200.0)), rng.choice((20.0, 46.0))) for _ in range(60)]
    edges = random_edges(60, seed)
    drawing = draw(sizes, edges)
    boxes = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for (x, y), (w, h) in zip(drawing.places, sizes, strict=True)]
    for (left, top, right, bottom), (left2, top2, right2, bottom2) in itertools.combinations(boxes, 2):
        assert right < left2 or right2 < left or bottom < top2 or bottom2 < top
    assert min(box[0] for box in boxes) >= -1e-6 and max(box[2] for box in boxes) <= drawing.width + 1e-6
    assert all(drawing.places[a][1] < drawing.places[b][1] for a, b in edges)


@pytest.mark.parametrize("seed", range(4))
def test_a_net_connects_its_node_with_each_reader(seed: int) -> None:
    edges = random_edges(50, seed)
    drawing = draw([(100.0, 30.0)] * 50, edges)
    for source, pieces in enumerate(drawing.pieces):
        x, y = drawing.places[source]
        reached, rest = {(x, y + 15.0)}, list(pieces)
        for start, end in rest:  # pieces are in order from above
            if start in reached or any(abs(start[0] - at[0]) < 1e-6 and start[1] >= at[1] for at in reached):
                reached.add(end)
        for _, target in (edge for edge in edges if edge[0] == source):
            at = drawing.places[target]
            assert any(abs(at[0] - u) < 1e-6 and abs(at[1] - 15.0 - v) < 1e-6 for u, v in reached)


def test_a_chain_is_a_straight_line_and_a_tree_has_no_crossings() -> None:
    chain = draw([(100.0, 30.0)] * 30, [(i, i + 1) for i in range(29)])
    assert len({round(x, 6) for x, _ in chain.places}) == 1
    tree = draw([(40.0, 20.0)] * 7, [(0, 1), (0, 2), (1, 6), (1, 3), (2, 5), (2, 4)])
    x = [place[0] for place in tree.places]
    left, right = sorted((1, 2), key=lambda node: x[node])
    below = {1: (3, 6), 2: (4, 5)}
    assert max(x[node] for node in below[left]) < min(x[node] for node in below[right])


def test_edges_that_lead_back_are_refused() -> None:
    with pytest.raises(ValueError, match="lower to higher"):
        draw([(1.0, 1.0)] * 2, [(1, 0)])
    assert draw([], []).places == ()


def test_a_conversion_runs_right_before_its_first_reader() -> None:
    found = steps(branching(5))
    assert [(step.name, step.is_adapter) for step in found][:2] == [("x", True), ("layer0", False)]
    assert (found[-1].name, found[-1].is_adapter) == ("layer4", True)
    for step, following in itertools.pairwise(found):
        assert following.start_s == pytest.approx(step.start_s + step.work.median_s)
    assert [layouts(step.work) for step in found[:2]] == ["NCHW > NCHW16c", "NCHW16c"]


def test_readers_share_a_conversion_and_others_read_the_original() -> None:
    made = plan(
        (
            layer("a", 0, "x", formats=(PLAIN,)),
            layer("b", 1, "a", formats=(PLAIN,)),
            layer("c", 2, "a", formats=(PLAIN,)),
            layer("d", 3, "a", "b", "c"),
        ),
        (adapter("a", BLOCKED, PLAIN),),
    )
    drawing = network(made)
    assert [(node.kind, node.name) for node in drawing.nodes] == [
        ("input", "x"),
        ("layer", "a"),
        ("adapter", "a"),
        ("layer", "b"),
        ("layer", "c"),
        ("layer", "d"),
        ("output", "d"),
    ]
    branches = [len(re.findall("M", node.net)) for node in drawing.nodes]
    assert branches[2] == 2  # the conversion feeds both its readers
    assert branches[1] >= 2  # the conversion, and the trunk past it to `d`
    assert branches[6] == 0


def test_inputs_and_converted_outputs_have_nodes() -> None:
    nodes = network(branching(4)).nodes
    assert [(node.kind, node.name) for node in nodes if node.kind in ("input", "output")] == [
        ("input", "x"),
        ("output", "layer3"),
    ]
    assert nodes[-2].kind == "adapter" and nodes[-2].net.startswith("M")


@pytest.mark.parametrize("count", [10, 400])
def test_networks_of_all_sizes(count: int) -> None:
    drawing = network(branching(count))
    assert len(drawing.nodes) == count + 4
    assert all(0 <= node.x and node.x + node.width <= drawing.width for node in drawing.nodes)
    assert all(0 <= node.y and node.y + node.height <= drawing.height for node in drawing.nodes)
