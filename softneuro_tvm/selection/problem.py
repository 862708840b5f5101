"""Turns a measured graph into the pairwise problem that the solver minimises.

Variables: one for each layer (its states are the distinct port formats its candidates offer, each at the price of the
fastest candidate), and one for each tensor with several readers (its states are the sets of formats in which the tensor
is made available, so that a conversion several readers share is paid once). A candidate that covers several layers is a
state of each of them: the last one pays for it, and tables of zeros and infinities tie all of them to be in it
together. Every cost then belongs to one variable or to one pair, and the optimum of the pairwise problem is the optimum
of the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from softneuro_tvm.graph import Graph
from softneuro_tvm.layer_kind import Cover
from softneuro_tvm.selection.states import AdapterCost, NetworkProblem, Priced, State
from softneuro_tvm.selection.structure import Structure

__all__ = ["AdapterCost", "NetworkProblem", "Priced", "State", "build_problem"]


def build_problem(
    graph: Graph,
    priced: Mapping[str, Sequence[Priced]],
    adapter_cost: AdapterCost,
    covers: Sequence[tuple[Cover, Sequence[Priced]]] = (),
) -> NetworkProblem:
    """Builds the problem.

    Args:
        graph: The network.
        priced: Usable candidates of each layer, by layer name.
        adapter_cost: Price of converting a tensor.
        covers: Layers that can be computed at once, with the usable candidates; they may overlap.

    Raises:
        SelectionError: a layer without a usable candidate.
    """
    costs = {id(option): cost for options in (*priced.values(), *(o for _, o in covers)) for option, cost in options}
    options = {name: [option for option, _ in found] for name, found in priced.items()}
    structure = Structure.of(graph, options, [(cover, [option for option, _ in found]) for cover, found in covers])
    return structure.problem(lambda option: costs[id(option)], adapter_cost)
