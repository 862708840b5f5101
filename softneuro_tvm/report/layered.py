"""Layered drawing of a directed acyclic graph: ranks by longest path, few crossings, straight long edges.

After Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures" (1981). What a
node writes is one net: a trunk that runs down to its last reader and branches off at the rank above each reader, so
that a tensor with many readers stays one line.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

_GAP = 22.0
"""Between neighbours in a rank."""
_RANK_GAP = 26.0
_TRUNK_WIDTH = 6.0
_SWEEPS = 12
_STRAIGHTNESS = 8.0
"""How much more edges between nodes and pieces of a trunk count than where a trunk meets a node."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Drawing:
    """Where everything lies; the origin is at the top left.

    Args:
        places: Centre of each node.
        pieces: For each node the lines of its net, each from one rank to the next or past a rank.
        width: Of everything.
        height: Of everything.
    """

    places: tuple[Point, ...]
    pieces: tuple[tuple[tuple[Point, Point], ...], ...]
    width: float
    height: float


def draw(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]) -> Drawing:
    """Draws a graph from top to bottom.

    Args:
        sizes: Width and height of each node.
        edges: Pairs of nodes, each from a lower to a higher number.

    Raises:
        ValueError: an edge that does not lead to a higher number.
    """
    if any(source >= target for source, target in edges):
        raise ValueError("edges must lead from lower to higher numbers")
    if not sizes:
        return Drawing((), (), 0.0, 0.0)
    return _Layout(sizes, sorted(set(edges))).drawing()


class _Layout:
    """Vertices are the nodes, then the points where a trunk crosses a rank."""

    def __init__(self, sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]) -> None:
        self.sizes = sizes
        self.count = len(sizes)
        self.rank = _ranks(self.count, edges)
        self.net = list(range(self.count))
        self.above: list[list[int]] = [[] for _ in sizes]
        self.below: list[list[int]] = [[] for _ in sizes]
        self._trunks(edges)
        self.rows: list[list[int]] = [[] for _ in range(max(self.rank) + 1)]
        for vertex in range(len(self.rank)):
            self.rows[self.rank[vertex]].append(vertex)
        self._order()
        self.x = self._columns()

    def _trunks(self, edges: Sequence[tuple[int, int]]) -> None:
        trunk: dict[tuple[int, int], int] = {}
        for source, target in edges:
            last = source
            for rank in range(self.rank[source] + 1, self.rank[target]):
                if (source, rank) not in trunk:
                    trunk[source, rank] = len(self.rank)
                    self.rank.append(rank)
                    self.net.append(source)
                    self.above.append([])
                    self.below.append([])
                    self._join(last, trunk[source, rank])
                last = trunk[source, rank]
            self._join(last, target)

    def _join(self, upper: int, lower: int) -> None:
        self.below[upper].append(lower)
        self.above[lower].append(upper)

    def _width(self, vertex: int) -> float:
        return self.sizes[vertex][0] if vertex < self.count else _TRUNK_WIDTH

    def _order(self) -> None:
        """Sorts ranks by the mean place of neighbours, down and up; keeps the order with the fewest crossings."""
        best, fewest = [list(row) for row in self.rows], self._crossings()
        for sweep in range(_SWEEPS):
            if not fewest:
                break
            down = sweep % 2 == 0
            for row, fixed in _pairs(self.rows, down):
                place = {vertex: float(i) for i, vertex in enumerate(fixed)}
                key = {}
                for i, vertex in enumerate(row):
                    known = [place[n] for n in (self.above if down else self.below)[vertex]]
                    key[vertex] = sum(known) / len(known) if known else i * len(fixed) / len(row)
                row.sort(key=key.__getitem__)
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(row) for row in self.rows], crossings
        self.rows = best

    def _crossings(self) -> int:
        total = 0
        for row, upper in _pairs(self.rows, True):
            place = {vertex: i for i, vertex in enumerate(row)}
            seen: list[int] = []
            for vertex in upper:
                ends = sorted(place[lower] for lower in self.below[vertex])
                total += sum(len(seen) - bisect_right(seen, end) for end in ends)
                for end in ends:
                    insort(seen, end)
        return total

    def _columns(self) -> list[float]:
        """Centres: each rank in turn comes as near as it can to the rank before it, at last to both its neighbours."""
        x = [0.0] * len(self.rank)
        for row in self.rows:
            self._settle(x, row, [0.0] * len(row), [1.0] * len(row))
        for sweep in range(_SWEEPS):
            down, last = sweep % 2 == 0, sweep >= _SWEEPS - 2
            for row, _ in _pairs(self.rows, down):
                wanted, weights = [], []
                for vertex in row:
                    near = [
                        *(self.above[vertex] if down or last else ()),
                        *(self.below[vertex] if last or not down else ()),
                    ]
                    pulls = [(x[n], self._pull(vertex, n)) for n in near]
                    weight = sum(pull for _, pull in pulls)
                    wanted.append(sum(at * pull for at, pull in pulls) / weight if pulls else x[vertex])
                    weights.append(weight or 1.0)
                self._settle(x, row, wanted, weights)
        left = min(at - self._width(vertex) / 2 for vertex, at in enumerate(x))
        return [at - left for at in x]

    def _pull(self, vertex: int, neighbour: int) -> float:
        return _STRAIGHTNESS if (vertex < self.count) == (neighbour < self.count) else 1.0

    def _settle(self, x: list[float], row: list[int], wanted: list[float], weights: list[float]) -> None:
        """Least squares under the order and the gaps: pool adjacent violators."""
        offsets, edge = [], 0.0
        for vertex in row:
            offsets.append(edge + self._width(vertex) / 2)
            edge += self._width(vertex) + _GAP
        blocks: list[tuple[float, float, int]] = []
        for want, offset, weight in zip(wanted, offsets, weights, strict=True):
            at, members = want - offset, 1
            while blocks and blocks[-1][0] > at:
                before, heavy, count = blocks.pop()
                at = (at * weight + before * heavy) / (weight + heavy)
                weight, members = weight + heavy, members + count
            blocks.append((at, weight, members))
        starts = [at for at, _, members in blocks for _ in range(members)]
        for vertex, start, offset in zip(row, starts, offsets, strict=True):
            x[vertex] = start + offset

    def drawing(self) -> Drawing:
        """The result, from ranks and columns."""
        heights = [max([self.sizes[v][1] for v in row if v < self.count], default=0.0) for row in self.rows]
        tops, y = [], 0.0
        for height in heights:
            tops.append(y)
            y += height + _RANK_GAP
        middle = [top + height / 2 for top, height in zip(tops, heights, strict=True)]
        places = tuple((self.x[v], middle[self.rank[v]]) for v in range(self.count))
        pieces: list[list[tuple[Point, Point]]] = [[] for _ in self.sizes]
        for vertex, lowers in enumerate(self.below):
            rank = self.rank[vertex]
            half = self.sizes[vertex][1] / 2 if vertex < self.count else heights[rank] / 2
            for lower in lowers:
                reach = (self.sizes[lower][1] if lower < self.count else heights[rank + 1]) / 2
                start, end = (self.x[vertex], middle[rank] + half), (self.x[lower], middle[rank + 1] - reach)
                pieces[self.net[vertex]].append((start, end))
                if lower >= self.count:  # past the boxes of the rank
                    pieces[self.net[vertex]].append((end, (end[0], end[1] + 2 * reach)))
        width = max(at + self._width(vertex) / 2 for vertex, at in enumerate(self.x))
        return Drawing(places, tuple(map(tuple, pieces)), width, y - _RANK_GAP)


def _ranks(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Longest path from above; a node that nothing leads to stands right above its first reader."""
    rank = [0] * count
    for source, target in edges:  # sorted by source, and all lead upwards in number
        rank[target] = max(rank[target], rank[source] + 1)
    entered = {target for _, target in edges}
    first_reader: dict[int, int] = {}
    for source, target in edges:
        if source not in entered:
            first_reader[source] = min(rank[target], first_reader.get(source, rank[target]))
    for source, reader in first_reader.items():
        rank[source] = reader - 1
    return rank


def _pairs(rows: list[list[int]], down: bool) -> list[tuple[list[int], list[int]]]:
    """Each rank with the one before it, in the direction of a sweep."""
    ordered = rows if down else rows[::-1]
    return list(zip(ordered[1:], ordered, strict=False))
