"""Options that name another device than this machine, and the board where it is."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Annotated

import typer

from softneuro_tvm.device import HOST, architecture
from softneuro_tvm.linking import CROSS_COMPILER_VARIABLE
from softneuro_tvm.remote.board import Board, find_board

_PANEL = "Other devices"

Target = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="DEVICE",
        rich_help_panel=_PANEL,
        help="What to generate code for: host, a device (`softneuro-tvm devices` lists them), a device file (.toml), "
        "or a TVM target as JSON or tag.",
    ),
]
RpcTracker = Annotated[
    str | None,
    typer.Option(
        "--rpc-tracker",
        metavar="HOST:PORT",
        rich_help_panel=_PANEL,
        help="Measure on boards that this tracker knows; by default TVM_TRACKER_HOST and TVM_TRACKER_PORT.",
    ),
]
RpcKey = Annotated[
    str | None,
    typer.Option("--rpc-key", rich_help_panel=_PANEL, help="Key of these boards; by default TVM_TRACKER_KEY."),
]
RpcServer = Annotated[
    str | None,
    typer.Option(
        "--rpc-server", metavar="HOST:PORT", rich_help_panel=_PANEL, help="Measure on the board with this address."
    ),
]
RpcSessionTimeout = Annotated[
    float | None,
    typer.Option(
        "--rpc-session-timeout",
        min=10.0,
        metavar="SECONDS",
        rich_help_panel=_PANEL,
        help="After this time a board ends a session, whatever it is doing; more for large networks over slow lines "
        "(90 by default).",
    ),
]
CrossCompiler = Annotated[
    str | None,
    typer.Option(
        "--cross-compiler",
        metavar="COMMAND",
        rich_help_panel=_PANEL,
        help="C compiler that links for the device; Debian's cross compiler or the wheel ziglang by default.",
    ),
]

DaskScheduler = Annotated[
    str | None,
    typer.Option(
        "--dask-scheduler",
        metavar="ADDRESS",
        rich_help_panel=_PANEL,
        help="Compile on the workers of this dask scheduler, e.g. tcp://127.0.0.1:8786; on this machine by default.",
    ),
]


def chosen_board(
    tracker: str | None, key: str | None, server: str | None, session_timeout_s: float | None, elsewhere: bool
) -> Board | None:
    """The board that options name; environment variables alone do so only where nothing can run on this machine.

    Args:
        tracker: ``--rpc-tracker``.
        key: ``--rpc-key``.
        server: ``--rpc-server``.
        session_timeout_s: ``--rpc-session-timeout``.
        elsewhere: Whether this machine is out of the question.

    Raises:
        DeviceError: an address cannot be read, or something is missing.
    """
    if not elsewhere and tracker is None and key is None and server is None:
        return None
    board = find_board(tracker, key, server)
    if board is not None and session_timeout_s is not None:
        return replace(board, session_timeout_s=session_timeout_s)
    return board


def use_cross_compiler(command: str | None) -> None:
    """Lets this process, and those that it starts, link for other machines with a command."""
    if command is not None:
        os.environ[CROSS_COMPILER_VARIABLE] = command


def is_elsewhere(machine: str | None) -> bool:
    """Whether a kind of processor, or a device's name, is not this machine's."""
    return machine not in (None, HOST, architecture({}))
