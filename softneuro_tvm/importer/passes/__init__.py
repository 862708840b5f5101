"""Passes over the graph, in the order in which they run. Each keeps what the graph computes. Needs numpy only."""

from __future__ import annotations

import logging
from collections.abc import Callable

from softneuro_tvm.graph import Graph
from softneuro_tvm.importer.passes.activations import recognise_activations
from softneuro_tvm.importer.passes.channels import select_channels
from softneuro_tvm.importer.passes.concats import join_slices, share_concats
from softneuro_tvm.importer.passes.conversions import move_conversions
from softneuro_tvm.importer.passes.fuse_epilogues import fuse_epilogues
from softneuro_tvm.importer.passes.layer_norms import recognise_layer_norms
from softneuro_tvm.importer.passes.lift_elementwise import lift_elementwise
from softneuro_tvm.importer.passes.merge_elementwise import merge_elementwise
from softneuro_tvm.importer.passes.pooling import average_first, pool_means
from softneuro_tvm.importer.passes.quantized_layers import form_quantized_layers
from softneuro_tvm.importer.passes.shared_memory import share_memory
from softneuro_tvm.importer.passes.sparse_weights import mark_sparse_weights
from softneuro_tvm.importer.passes.views import simplify_views

__all__ = ["PASSES", "optimise"]

logger = logging.getLogger(__name__)

PASSES: tuple[Callable[[Graph], Graph], ...] = (
    pool_means,  # first: makes reshapes
    move_conversions,  # before views and channels are looked at: these have become neighbours
    lift_elementwise,
    simplify_views,  # after lifting: reshapes have become neighbours
    select_channels,  # before merging: sees slices and concatenations as exported
    join_slices,  # after selecting channels: what is left of split and concat
    share_concats,
    merge_elementwise,
    recognise_activations,  # after merging: sees whole formulas
    recognise_layer_norms,  # after both: sees squares and roots
    fuse_epilogues,  # after recognition: takes an activation in one step
    form_quantized_layers,  # after fusing: bias and activation belong to their layers
    average_first,  # after fusing: only convolutions without an activation let averages pass
    mark_sparse_weights,
    share_memory,  # last: who writes what must not change any more
)


def optimise(graph: Graph) -> Graph:
    """Runs all passes."""
    for step in PASSES:
        before, graph = graph, step(graph)
        logger.debug("%s: %d -> %d layers", step.__name__, len(before.layers), len(graph.layers))
    return graph
