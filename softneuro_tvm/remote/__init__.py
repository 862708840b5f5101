"""Boards: code is generated and linked here, and measured there, over TVM's RPC.

The profiler builds on most of this. `site`, `module` and `check` build on the profiler: its children hold sessions.
"""

from softneuro_tvm.remote.board import Board, find_board

__all__ = ["Board", "find_board"]
