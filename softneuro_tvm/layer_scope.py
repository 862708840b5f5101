"""Which layers the LAYERS part of a routine descriptor names.

Each item between commas is one of::

    conv2_1      the layer of this name, or the layers that a composite of this name computes at once
    "conv,1"     the same for names with commas, or names that could mean something else, too
    4  2..9      positions in the graph from 0, both ends included, as `softneuro-tvm inspect` numbers them
    conv2d       every layer of this kind
    layer1*      every layer whose name fits the pattern (* ? [abc])
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from softneuro_tvm.descriptor import Descriptor
from softneuro_tvm.graph import Graph
from softneuro_tvm.layer_kind import Cover

_RANGE = re.compile(r"(\d+)(?:\.\.(\d+))?")
_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Scope:
    """What a descriptor names in a graph.

    Args:
        layers: Names of layers.
        composites: Names of composites that were named by their kind, or because everything was.
        exact: Names of composites that were named themselves.
    """

    layers: frozenset[str] = frozenset()
    composites: frozenset[str] = frozenset()
    exact: frozenset[str] = frozenset()

    def __or__(self, other: Scope) -> Scope:
        return Scope(self.layers | other.layers, self.composites | other.composites, self.exact | other.exact)


class ScopeFinder:
    """Finds what descriptors name.

    Args:
        graph: The network.
        covers: Layers that can be computed at once.
    """

    def __init__(self, graph: Graph, covers: Sequence[Cover]) -> None:
        self.names = [layer.name for layer in graph.layers]
        self.composites = frozenset(cover.layer.name for cover in covers)
        self.kinds: dict[str, Scope] = {}
        for layer in graph.layers:
            self._add_kind(layer.kind, Scope(layers=frozenset([layer.name])))
        for cover in covers:
            self._add_kind(cover.layer.kind, Scope(composites=frozenset([cover.layer.name])))

    def _add_kind(self, kind: str, scope: Scope) -> None:
        self.kinds[kind] = self.kinds.get(kind, Scope()) | scope

    def find(self, descriptor: Descriptor) -> Scope:
        """What a descriptor names; everything if it names nothing.

        Raises:
            DescriptorError: there is no such layer, or it could be several things.
        """
        if not descriptor.layers:
            return Scope(frozenset(self.names), self.composites)
        found = Scope()
        for item in descriptor.layers:
            found |= self._item(descriptor, item)
        return found

    def _item(self, descriptor: Descriptor, item: str) -> Scope:
        quoted = item.startswith('"')
        by_name = self._by_name(item.strip('"'))
        meanings = {"a layer": by_name}
        if not quoted:
            meanings |= {
                "a position": self._by_position(descriptor, item, by_name),
                "a layer kind": self.kinds.get(item),
            }
        found = {meaning: scope for meaning, scope in meanings.items() if scope is not None}
        if len(set(found.values())) > 1:
            raise descriptor.error(
                item,
                f"{item!r} is the name of {' and of '.join(found)}; write {chr(34)}{item}{chr(34)} for the layer of "
                "this name, a range like 2..2 for a position, or a pattern",
            )
        if found:
            return next(iter(found.values()))
        if not quoted and _PATTERN.search(item) and (fitting := [n for n in self.names if fnmatchcase(n, item)]):
            return Scope(layers=frozenset(fitting))
        raise descriptor.error(item, self._unknown(item.strip('"')))

    def _by_name(self, name: str) -> Scope | None:
        if name in self.names:
            return Scope(layers=frozenset([name]))
        return Scope(exact=frozenset([name])) if name in self.composites else None

    def _by_position(self, descriptor: Descriptor, item: str, by_name: Scope | None) -> Scope | None:
        match = _RANGE.fullmatch(item)
        if match is None:
            return None
        first, last = int(match[1]), int(match[2] or match[1])
        if first <= last < len(self.names):
            return Scope(layers=frozenset(self.names[first : last + 1]))
        if by_name is not None:
            return None
        raise descriptor.error(item, f"there are no layers {item}; the model has the layers 0..{len(self.names) - 1}")

    def _unknown(self, item: str) -> str:
        if _PATTERN.search(item):
            return f"no layer's name fits {item!r}; `softneuro-tvm inspect MODEL` lists them"
        close = get_close_matches(item, [*self.names, *self.composites, *self.kinds], n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "`softneuro-tvm inspect MODEL` lists them"
        return f"the model has no layer {item!r}, and no layer of such a kind; {hint}"
