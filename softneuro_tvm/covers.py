"""Covers: layers of a graph that one routine computes at once. Which there are, and which of them a plan chose."""

from __future__ import annotations

from collections import Counter

from softneuro_tvm.errors import PlanError
from softneuro_tvm.graph import Graph, Layer
from softneuro_tvm.layer_kind import Cover
from softneuro_tvm.plan import LayerChoice, Plan
from softneuro_tvm.registry import layer_kinds


def find_covers(graph: Graph) -> tuple[Cover, ...]:
    """What the composite layer kinds can replace in a graph; covers may overlap."""
    return tuple(cover for kind in layer_kinds().values() for cover in kind.covers(graph))


def planned_layers(graph: Graph, plan: Plan) -> tuple[tuple[Layer, LayerChoice], ...]:
    """The layers that a plan computes, in its order, composites in place of what they cover.

    Raises:
        PlanError: the plan does not compute each layer of the graph once.
    """
    computed = Counter(name for choice in plan.layers for name in choice.covers or (choice.layer,))
    wanted = Counter(layer.name for layer in graph.layers)
    if computed != wanted:
        names = ", ".join(repr(name) for name in list((wanted - computed) + (computed - wanted))[:5])
        raise PlanError(f"the plan does not compute the model's layers, each once: {names}; make it again with `tune`")
    layers = {layer.name: layer for layer in graph.layers}
    covers = {}
    if any(choice.covers for choice in plan.layers):
        covers = {(cover.layer.kind, cover.parts): cover.layer for cover in find_covers(graph)}
    found = []
    for choice in plan.layers:
        layer = covers.get((choice.kind, choice.covers)) if choice.covers else layers[choice.layer]
        if layer is None:
            raise PlanError(f"no {choice.kind} covers {'+'.join(choice.covers)}; make the plan again with `tune`")
        found.append((layer, choice))
    return tuple(found)
