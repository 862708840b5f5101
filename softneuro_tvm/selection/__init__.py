"""Stage `select`: DPRS, dynamic programming for routine selection. Exact on any graph, for what was measured."""

from softneuro_tvm.selection.pareto import front_figure, pareto
from softneuro_tvm.selection.resources import Limits
from softneuro_tvm.selection.select import select

__all__ = ["Limits", "front_figure", "pareto", "select"]
