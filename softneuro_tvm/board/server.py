"""The RPC server in Python: serves one client after the other, each in a forked process."""

from __future__ import annotations

import ipaddress
import logging
import math
import select
import socket
import sys
import time

from softneuro_tvm.board.options import ServerOptions, is_allowed, shorter
from softneuro_tvm.board.session import run_session, work_folder
from softneuro_tvm.board.session_process import load_runtime
from softneuro_tvm.board.signals import SignalPipe
from softneuro_tvm.board.sockets import (
    PeerError,
    keep_alive,
    listen_on,
    number_bytes,
    receive_all,
    receive_number,
    send_all,
)
from softneuro_tvm.board.tracker import PERIOD_S, Tracker
from softneuro_tvm.errors import DeviceError

MAGIC = 0xFF271
MISMATCH = MAGIC + 2
_LONGEST_KEY = 1024
_HANDSHAKE_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


def serve(options: ServerOptions) -> None:
    """Serves until SIGTERM or SIGINT; must be called in the main thread.

    Raises:
        DeviceError: this machine cannot serve, or no port is free.
    """
    if sys.platform != "linux":
        raise DeviceError("the server runs on Linux; elsewhere use TVM's own: `python -m tvm.exec.rpc_server`")
    try:
        with work_folder(options.work_dir):
            pass
    except OSError as error:
        raise DeviceError(f"cannot write to {options.work_dir}: {error}; choose another --work-dir") from error
    load_runtime()
    signals = SignalPipe()
    with listen_on(options.host, options.port, options.port_end) as listener:
        _Server(options, listener, signals).loop()
    logger.info("stopped")


class _Server:
    """The loop around sessions.

    Args:
        options: What the server is told.
        listener: Where clients come in.
        signals: Of this process.
    """

    def __init__(self, options: ServerOptions, listener: socket.socket, signals: SignalPipe) -> None:
        self._options, self._listener, self._signals = options, listener, signals
        port = listener.getsockname()[1]
        logger.info("listening on %s:%d", options.host, port)
        if not options.allow and not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
            logger.warning("whoever reaches this address can run any code here; use --allow, or an SSH tunnel")
        self._tracker = None
        if options.tracker is not None:
            self._tracker = Tracker(options.tracker, options.key, options.custom_addr, port)
        self._sessions = 0

    def loop(self) -> None:
        """Serves until the process is asked to end."""
        next_refresh_s = 0.0 if self._tracker else math.inf
        while not self._signals.stopping:
            if self._tracker and time.monotonic() >= next_refresh_s:
                self._tracker.refresh()
                next_refresh_s = time.monotonic() + PERIOD_S
            if self._wait(next_refresh_s) and self._serve_one() and self._tracker:
                self._tracker.taken()
                next_refresh_s = 0.0
        if self._tracker and self._tracker.connection:
            self._tracker.connection.close()

    def _wait(self, until_s: float) -> bool:
        """Whether a client has come in; returns early when there is something else to look at."""
        poll = select.poll()
        poll.register(self._signals.read_end, select.POLLIN)
        poll.register(self._listener, select.POLLIN)
        tracker = self._tracker and self._tracker.connection
        if tracker:
            poll.register(tracker, select.POLLIN)
        left_s = max(0.0, until_s - time.monotonic())
        ready = {descriptor for descriptor, _ in poll.poll(None if math.isinf(left_s) else left_s * 1000)}
        if self._signals.read_end in ready:
            self._signals.drain()
        if self._tracker and tracker and tracker.fileno() in ready:
            self._tracker.drop()  # it speaks only when spoken to: this is its end
        return self._listener.fileno() in ready

    def _serve_one(self) -> bool:
        """Takes one client and serves it to the end; False if it was refused."""
        try:
            connection, address = self._listener.accept()
        except OSError as error:  # it has gone again
            logger.info("no connection: %s", error)
            return False
        name = f"{address[0]}:{address[1]}"
        with connection:
            try:
                asked_s = self._shake_hands(connection, address[0])
            except OSError as error:
                logger.info("refused %s: %s", name, error)
                return False
            self._sessions += 1
            timeout_s = shorter(self._options.session_timeout_s, asked_s)
            logger.info("session %d: %s, timeout %g s", self._sessions, name, timeout_s)
            start_s = time.monotonic()
            own = [self._listener, *([self._tracker.connection] if self._tracker and self._tracker.connection else [])]
            try:
                end = run_session(connection, self._options.work_dir, timeout_s, self._signals, own)
            except OSError as error:
                end = f"not served: {error}"
            logger.info("session %d: %s, %.2f s, %s", self._sessions, name, time.monotonic() - start_s, end)
        return True

    def _shake_hands(self, connection: socket.socket, address: str) -> float:
        """Checks a client's address and key.

        Returns:
            The timeout in seconds that it asks for; 0 for none.

        Raises:
            PeerError: it is refused.
        """
        if not is_allowed(address, self._options.allow):
            raise PeerError("not in --allow")
        deadline_s = time.monotonic() + _HANDSHAKE_TIMEOUT_S
        if receive_number(connection, deadline_s) != MAGIC:
            raise PeerError("no TVM RPC client")
        length = receive_number(connection, deadline_s)
        if not 0 <= length <= _LONGEST_KEY:
            raise PeerError("no TVM RPC client")
        key, *rest = receive_all(connection, length, deadline_s).decode(errors="replace").split(" ")
        expected = self._tracker.match_key if self._tracker else self._options.key
        if key != f"client:{expected}":
            send_all(connection, number_bytes(MISMATCH), deadline_s)
            raise PeerError("wrong key")
        own_key = f"server:{self._options.key}".encode()
        send_all(connection, number_bytes(MAGIC) + number_bytes(len(own_key)) + own_key, deadline_s)
        keep_alive(connection)
        return _asked_timeout_s(rest)


def _asked_timeout_s(options: list[str]) -> float:
    """The value of ``-timeout=`` among a client's options; 0 if there is none that can be read."""
    for option in options:
        name, _, value = option.partition("=")
        if name == "-timeout":
            try:
                return max(0.0, float(value))
            except ValueError:
                return 0.0
    return 0.0
