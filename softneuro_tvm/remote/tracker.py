"""TVM's tracker, asked with time limits: TVM's own client waits without end. Needs no TVM."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from softneuro_tvm.errors import BoardError
from softneuro_tvm.remote.board import Address

_MAGIC = 0x2F271
_SUCCESS, _REQUEST, _SUMMARY = 0, 4, 6
_LENGTH = struct.Struct("<i")
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Summary:
    """What a tracker knows.

    Args:
        info: As TVM's protocol has it.
    """

    info: Mapping[str, Any]

    @property
    def keys(self) -> list[str]:
        """Keys of the registered boards."""
        return sorted({str(server["key"]).removeprefix("server:") for server in self.info["server_info"]})

    def servers(self, key: str) -> list[tuple[str, int]]:
        """Addresses of the boards of a key, busy ones included."""
        found = [s["addr"] for s in self.info["server_info"] if s["key"] == f"server:{key}"]
        return [(str(address[0]), int(address[1])) for address in found]

    def free(self, key: str) -> int:
        """Boards of a key that nobody uses now."""
        return int(self.info["queue_info"].get(key, {}).get("free", 0))


def summary(tracker: Address, timeout_s: float) -> Summary:
    """Asks a tracker what it knows.

    Raises:
        BoardError: it cannot be reached, or does not answer in time, or is no tracker.
    """
    with _connection(tracker, timeout_s) as stream:
        _send(stream, [_SUMMARY])
        return Summary(_received(stream)[1])


def request(tracker: Address, key: str, timeout_s: float) -> tuple[str, int, str]:
    """Waits for a free board.

    Args:
        tracker: Its address.
        key: Of the board.
        timeout_s: How long to wait.

    Returns:
        Host, port, and what the board wants to hear.

    Raises:
        BoardError: the tracker cannot be reached, or no board was free in time.
    """
    with _connection(tracker, timeout_s) as stream:
        _send(stream, [_REQUEST, key, "", 1])
        try:
            host, port, match = _received(stream)[1]
        except TimeoutError as error:
            known = summary(tracker, timeout_s)
            boards = known.servers(key)
            there = f"its {len(boards)} board(s) are busy" if boards else f"it knows no such board, only {known.keys}"
            raise BoardError(
                f"the tracker at {_text(tracker)} gave no board with the key {key!r} within {timeout_s:g} s: {there}; "
                "start one, or free one, or name another key with --rpc-key"
            ) from error
    return str(host), int(port), str(match)


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


@contextmanager
def _connection(tracker: Address, timeout_s: float) -> Iterator[socket.socket]:
    try:
        with socket.create_connection(tracker, timeout_s) as stream:
            stream.sendall(_LENGTH.pack(_MAGIC))
            if _LENGTH.unpack(_exactly(stream, _LENGTH.size))[0] != _MAGIC:
                raise BoardError(f"what listens at {_text(tracker)} is no tracker of TVM; check --rpc-tracker")
            yield stream
    except (OSError, EOFError, ValueError) as error:
        raise BoardError(
            f"the tracker at {_text(tracker)} cannot be reached: {error or type(error).__name__}; start one with "
            f"`python -m tvm.exec.rpc_tracker --host {tracker[0]} --port {tracker[1]}`, or check --rpc-tracker"
        ) from error


def _exactly(stream: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = stream.recv(count - len(data))
        if not chunk:
            raise EOFError("it closed the connection")
        data += chunk
    return data


def _send(stream: socket.socket, value: Any) -> None:
    data = json.dumps(value).encode()
    stream.sendall(_LENGTH.pack(len(data)) + data)


def _received(stream: socket.socket) -> Any:
    (count,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if not 0 < count <= _MOST_BYTES:
        raise ValueError(f"an answer of {count} bytes")
    value = json.loads(_exactly(stream, count))
    if not isinstance(value, list) or value[:1] != [_SUCCESS]:
        raise ValueError(f"it answered {value!r}")
    return value
