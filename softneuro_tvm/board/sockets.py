"""TCP sockets with deadlines. All stay blocking: TVM serves a session on the plain descriptor."""

from __future__ import annotations

import select
import socket
import struct
import time

from softneuro_tvm.errors import DeviceError


class PeerError(OSError):
    """The other side closed, failed, or was too slow."""


def _wait(connection: socket.socket, event: int, deadline_s: float) -> None:
    poll = select.poll()
    poll.register(connection, event)
    left_s = deadline_s - time.monotonic()
    if left_s <= 0 or not poll.poll(left_s * 1000):
        raise PeerError("too slow")


def receive_all(connection: socket.socket, size: int, deadline_s: float) -> bytes:
    """Exactly `size` bytes.

    Args:
        connection: Where from.
        size: Bytes.
        deadline_s: On the clock `time.monotonic`.

    Raises:
        PeerError: they did not come.
    """
    data = bytearray()
    while len(data) < size:
        _wait(connection, select.POLLIN, deadline_s)
        part = connection.recv(size - len(data), socket.MSG_DONTWAIT)
        if not part:
            raise PeerError("closed")
        data += part
    return bytes(data)


def send_all(connection: socket.socket, data: bytes, deadline_s: float) -> None:
    """Sends everything by a deadline on the clock `time.monotonic`.

    Raises:
        PeerError: the other side does not take it.
    """
    left = memoryview(data)
    while left:
        _wait(connection, select.POLLOUT, deadline_s)
        left = left[connection.send(left, socket.MSG_DONTWAIT) :]


def receive_number(connection: socket.socket, deadline_s: float) -> int:
    """A number as both protocols send it: 32 bits, little-endian."""
    return int(struct.unpack("<i", receive_all(connection, 4, deadline_s))[0])


def number_bytes(number: int) -> bytes:
    """A number as both protocols send it."""
    return struct.pack("<i", number)


def keep_alive(connection: socket.socket) -> None:
    """Has a peer that vanishes without a word (power cut, cable) noticed after a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def listen_on(host: str, port: int, port_end: int) -> socket.socket:
    """Listens on the first free port of `range(port, port_end)`, or on any free one if `port` is 0.

    Raises:
        DeviceError: there is none, or the address is not this machine's.
    """
    reason: OSError | None = None
    for candidate in range(port, max(port_end, port + 1)):
        try:
            family, _, _, _, address = socket.getaddrinfo(
                host, candidate, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            # without dual stack: allowed IPv4 addresses should look like such
            return socket.create_server(address[:2], family=family, backlog=8)
        except OSError as error:
            reason = error
            if "in use" not in str(error):
                break
    raise DeviceError(
        f"cannot listen on {host}, ports {port} to {max(port_end, port + 1) - 1}: {reason}; "
        "choose other ports with --port and --port-end, or another address with --host"
    )
