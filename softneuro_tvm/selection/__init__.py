"""Stage `select`: DPRS, dynamic programming for routine selection. Exact on any graph, for what was measured."""

from softneuro_tvm.selection.select import describe, select

__all__ = ["describe", "select"]
