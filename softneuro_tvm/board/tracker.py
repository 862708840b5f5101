"""The server's side of TVM's tracker protocol: messages of a size and JSON, one reply each."""

from __future__ import annotations

import json
import logging
import secrets
import socket
import time
from typing import Any

from softneuro_tvm.board.sockets import PeerError, keep_alive, number_bytes, receive_all, receive_number, send_all

MAGIC = 0x2F271
PERIOD_S = 2.0
"""Between attempts to reach the tracker, and between looks at it."""

_PUT, _UPDATE_INFO, _PENDING_KEYS = 3, 5, 7
_TIMEOUT_S = 5.0
_UNUSED_PERIODS = 3
"""A client that got the board and does not come for so long has lost it."""
_LARGEST_REPLY = 1 << 20

logger = logging.getLogger(__name__)


class Tracker:
    """Offers the board to a tracker again and again: after each session, and whenever the tracker has been away.

    Args:
        address: The tracker's host and port.
        key: What clients ask for.
        custom_addr: Where they are sent, if it is not the address that the board connects from.
        port: Where the board listens.

    Attributes:
        match_key: What a client must present: only the tracker tells it.
        connection: To the tracker; None while there is none.
    """

    def __init__(self, address: tuple[str, int], key: str, custom_addr: str | None, port: int) -> None:
        self.match_key = f"{key}:{secrets.token_hex(8)}"
        self.connection: socket.socket | None = None
        self._address, self._key, self._custom_addr, self._port = address, key, custom_addr, port
        self._offered = False
        self._reported_gone = False
        self._unused_periods = 0

    def refresh(self) -> None:
        """Makes sure that the tracker offers the board; to be called every `PERIOD_S` while no session runs."""
        if self.connection is not None:
            try:
                if self._offered:
                    self._check(self.connection)
                else:
                    self._offer(self.connection)
                return
            except (OSError, ValueError):
                self._close()
        try:
            self._connect()
        except (OSError, ValueError):
            # also where the name is not known yet: a board may come up before its network
            self.drop()

    def taken(self) -> None:
        """The board is in use, or was: its next offer needs a new match key."""
        self._offered = False

    def drop(self) -> None:
        """The connection is gone."""
        self._close()
        if not self._reported_gone:
            logger.info("no tracker at %s:%d; trying every %g s", *self._address, PERIOD_S)
        self._reported_gone = True

    def _close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None
        self._offered = False

    def _connect(self) -> None:
        connection = socket.create_connection(self._address, _TIMEOUT_S)
        self.connection = connection
        connection.settimeout(None)
        keep_alive(connection)
        deadline_s = time.monotonic() + _TIMEOUT_S
        send_all(connection, number_bytes(MAGIC), deadline_s)
        if receive_number(connection, deadline_s) != MAGIC:
            raise PeerError("not a tracker")
        info = {"key": f"server:{self._key}", "addr": [self._custom_addr, self._port]}
        self._tell(connection, [_UPDATE_INFO, info])
        self._offer(connection)
        logger.info("registered with tracker %s:%d as %s", *self._address, self._key)
        self._reported_gone = False

    def _offer(self, connection: socket.socket) -> None:
        self.match_key = f"{self._key}:{secrets.token_hex(8)}"
        self._unused_periods = 0
        self._tell(connection, [_PUT, self._key, [self._port, self.match_key], self._custom_addr])
        self._offered = True

    def _check(self, connection: socket.socket) -> None:
        still_offered = self.match_key in self._ask(connection, [_PENDING_KEYS])
        self._unused_periods = 0 if still_offered else self._unused_periods + 1
        if self._unused_periods > _UNUSED_PERIODS:
            self._offer(connection)

    def _tell(self, connection: socket.socket, message: list[Any]) -> None:
        if self._ask(connection, message) != 0:
            raise PeerError("the tracker refuses")

    def _ask(self, connection: socket.socket, message: list[Any]) -> Any:
        deadline_s = time.monotonic() + _TIMEOUT_S
        data = json.dumps(message).encode()
        send_all(connection, number_bytes(len(data)) + data, deadline_s)
        size = receive_number(connection, deadline_s)
        if not 0 < size <= _LARGEST_REPLY:
            raise PeerError("not a tracker")
        return json.loads(receive_all(connection, size, deadline_s))
