"""Where measuring takes place if not here: boards that are reached over TVM's RPC. Needs no TVM."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from softneuro_tvm.errors import DeviceError

Address = tuple[str, int]
"""Host name and port."""


@dataclass(frozen=True)
class Board:
    """One board at an address, or all boards of a key that a tracker knows.

    Args:
        tracker: Address of TVM's tracker.
        key: What kind of board; the boards of one key must be alike.
        server: Address of a board's server, instead of a tracker.
        connect_timeout_s: So long a connection, and a board that is in use, are waited for.
        session_timeout_s: After this time a board ends a session, whatever it is doing; the next one begins earlier.
        patience_s: So long tuning waits while no board answers, before it gives up.
        cooldown_s: Pause between samples, for boards that get hot.
    """

    tracker: Address | None = None
    key: str = ""
    server: Address | None = None
    connect_timeout_s: float = 30.0
    session_timeout_s: float = 90.0
    patience_s: float = 180.0
    cooldown_s: float = 0.0

    def __post_init__(self) -> None:
        if (self.tracker is None) == (self.server is None):
            raise DeviceError("a board has either a tracker (--rpc-tracker) or an address (--rpc-server)")
        if self.tracker is not None and not self.key:
            raise DeviceError(f"which boards of the tracker at {self.place}? Name their key with --rpc-key")

    @property
    def place(self) -> str:
        """Where it is, for people."""
        if self.server is not None:
            return f"{self.server[0]}:{self.server[1]}"
        assert self.tracker is not None
        return f"{self.key or 'any'}@{self.tracker[0]}:{self.tracker[1]}"


def find_board(
    tracker: str | None = None,
    key: str | None = None,
    server: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Board | None:
    """The board that options and TVM's environment variables name; None if they name none.

    Args:
        tracker: ``HOST:PORT``; by default ``TVM_TRACKER_HOST`` and ``TVM_TRACKER_PORT``, if there is a key.
        key: Of the board; by default ``TVM_TRACKER_KEY``.
        server: ``HOST:PORT`` of a board's server.
        environment: Environment variables.

    Raises:
        DeviceError: an address cannot be read, or something is missing.
    """
    key = key or environment.get("TVM_TRACKER_KEY", "")
    if server is not None:
        if tracker is not None:
            raise DeviceError("--rpc-tracker and --rpc-server exclude each other")
        return Board(server=parse_address("--rpc-server", server), key=key)
    if tracker is None and key and (host := environment.get("TVM_TRACKER_HOST")):
        port = environment.get("TVM_TRACKER_PORT", "9190")
        return Board(parse_address("TVM_TRACKER_HOST and TVM_TRACKER_PORT", f"{host}:{port}"), key)
    if tracker is None:
        if key and "TVM_TRACKER_KEY" not in environment:
            raise DeviceError("--rpc-key needs --rpc-tracker or --rpc-server (or TVM_TRACKER_HOST in the environment)")
        return None
    return Board(parse_address("--rpc-tracker", tracker), key)


def parse_address(option: str, text: str) -> Address:
    """Host and port of a text like ``127.0.0.1:9190`` or ``[::1]:9190``.

    Raises:
        DeviceError: malformed text; names the option.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise DeviceError(f"{option} cannot be read from {text!r}; write it like 127.0.0.1:9190")
    return host.strip("[]"), int(port)
