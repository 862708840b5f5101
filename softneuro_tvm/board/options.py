"""What an RPC server is told."""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from softneuro_tvm.errors import OptionError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class ServerOptions:
    """Options of an RPC server.

    Args:
        host: Address to listen on.
        port: First port that is tried; 0 means any free one.
        port_end: The port after the last one that is tried.
        tracker: Host and port of the tracker that the board is offered to.
        key: What clients ask for.
        custom_addr: Where the tracker sends clients, if it is not the address that the board connects from.
        session_timeout_s: Seconds that a session may last; 0 leaves it to clients.
        allow: Addresses that clients may come from; empty means all.
        work_dir: Where each session gets a folder for its files.

    Raises:
        OptionError: a key is missing, or cannot be sent.
    """

    host: str = "127.0.0.1"
    port: int = 9090
    port_end: int = 9199
    tracker: tuple[str, int] | None = None
    key: str = ""
    custom_addr: str | None = None
    session_timeout_s: float = 0.0
    allow: Sequence[Network] = ()
    work_dir: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))

    def __post_init__(self) -> None:
        if self.tracker is not None and not self.key:
            raise OptionError("--tracker needs --key, the name that clients ask the tracker for, e.g. --key rpi5")
        # a handshake's fields are parted by spaces; the C++ server writes keys into JSON as they are
        if not all("!" <= letter <= "~" and letter not in '"\\' for letter in self.key):
            raise OptionError(f"--key: {self.key!r} may hold only ASCII letters, digits and signs, no quotes")


def parse_tracker(text: str | None) -> tuple[str, int] | None:
    """Host and port of a tracker, from ``HOST:PORT``.

    Raises:
        OptionError: malformed text.
    """
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise OptionError(f"--tracker cannot be read from {text!r}; write it as HOST:PORT, e.g. 127.0.0.1:9190")
    return host, int(port)


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Ranges of addresses, from texts like ``192.168.1.7`` and ``192.168.1.0/24``.

    Raises:
        OptionError: malformed text.
    """
    try:
        return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise OptionError(f"--allow: {error}; write --allow 192.168.1.7 or --allow 192.168.1.0/24") from error


def is_allowed(address: str, networks: Sequence[Network]) -> bool:
    """Whether a client may come from an address; without networks, any may."""
    client = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(client, ipaddress.IPv6Address) and client.ipv4_mapped is not None:
        client = client.ipv4_mapped
    return not networks or any(client in network for network in networks)


def shorter(one_s: float, other_s: float) -> float:
    """The shorter of two timeouts of which 0 stands for none."""
    return min(one_s, other_s) if one_s and other_s else one_s + other_s
