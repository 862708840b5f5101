"""Orders nodes so that neighbours which fall through to TVM come together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from softneuro_tvm.importer.nodes import Node


class _Groups:
    """Disjoint sets of node numbers."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, index: int) -> int:
        """The number that stands for the set."""
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index

    def join(self, first: int, second: int) -> None:
        """Makes two sets one, named by its smallest number."""
        low, high = sorted((self.find(first), self.find(second)))
        self._parent[high] = low

    def sets(self, indices: Iterable[int]) -> list[list[int]]:
        """The sets among these numbers, in order of their first member."""
        found: dict[int, list[int]] = {}
        for index in indices:
            found.setdefault(self.find(index), []).append(index)
        return list(found.values())


def schedule(nodes: Sequence[Node]) -> list[list[Node]]:
    """Groups nodes into layers-to-be.

    Args:
        nodes: In an order in which values are computed before they are read.

    Returns:
        Runs in topological order: single recognised nodes, and connected groups of nodes that fall through, as large
        as such an order allows. Nodes joined by a value that is no tensor of known shape are in one group.
    """
    number = {node.var: index for index, node in enumerate(nodes)}
    reads = [{number[var] for var in node.inputs if var in number} for node in nodes]
    groups = _Groups(len(nodes))
    for index in range(len(nodes)):
        for producer in reads[index]:
            if nodes[producer].tied:
                groups.join(index, producer)
    symbolic = [index for index, node in enumerate(nodes) if node.symbolic]
    for first, second in pairwise(symbolic):
        groups.join(first, second)
    waiting = groups.sets(range(len(nodes)))
    done: set[int] = set()
    runs: list[list[int]] = []

    def take(layer_like: bool) -> list[int]:
        """Moves every unit that can be computed now, directly or after others moved, from waiting to done."""
        taken: list[int] = []
        moved = True
        while moved:
            moved = False
            for unit in list(waiting):
                is_layer = len(unit) == 1 and nodes[unit[0]].part is not None
                if is_layer == layer_like and all(reads[index] <= done | set(unit) for index in unit):
                    waiting.remove(unit)
                    done.update(unit)
                    taken += unit
                    moved = True
        return taken

    while waiting:
        runs += [[index] for index in take(True)]
        run = take(False)
        if not run and waiting and not any(len(unit) == 1 and reads[unit[0]] <= done for unit in waiting):
            run = [index for unit in waiting for index in unit]  # groups that need each other
            waiting.clear()
        runs += _connected(sorted(run), reads)
    return [[nodes[index] for index in run] for run in runs]


def _connected(run: Sequence[int], reads: Sequence[set[int]]) -> list[list[int]]:
    """Splits a run into parts that do not exchange values."""
    position = {index: place for place, index in enumerate(run)}
    groups = _Groups(len(run))
    for place, index in enumerate(run):
        for producer in reads[index] & position.keys():
            groups.join(place, position[producer])
    return [[run[place] for place in part] for part in groups.sets(range(len(run)))]
