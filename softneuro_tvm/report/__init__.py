"""A plan as a page for people, a trace for Perfetto, and an annotated ONNX model for Netron.

The page is one file that needs no network. `write_report` makes it, `trace` and `annotate` the other two.
"""

from __future__ import annotations

from softneuro_tvm.report.annotate import annotate, write_annotated
from softneuro_tvm.report.page import render, write_report
from softneuro_tvm.report.trace import trace, write_trace

__all__ = ["annotate", "render", "trace", "write_annotated", "write_report", "write_trace"]
