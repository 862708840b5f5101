"""Boards: code is generated and linked here, and measured there, over TVM's RPC."""

from softneuro_tvm.remote.board import Board, find_board

__all__ = ["Board", "find_board"]
