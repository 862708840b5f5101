"""Signals as bytes of a pipe, so that polling wakes up without a race."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType

_HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)


class SignalPipe:
    """Takes over SIGCHLD, SIGTERM and SIGINT of this process; must be made in its main thread.

    Attributes:
        stopping: Whether the process was asked to end.
        read_end: Becomes readable with each signal.
    """

    def __init__(self) -> None:
        self.stopping = False
        self.read_end, self._write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(self._write_end, False)
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in _HANDLED:
            signal.signal(number, self._note)

    def drain(self) -> None:
        """Forgets the signals so far."""
        with suppress(BlockingIOError):
            while os.read(self.read_end, 64):
                pass

    def release(self) -> None:
        """Gives the signals back their default actions."""
        signal.set_wakeup_fd(-1)
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        os.close(self.read_end)
        os.close(self._write_end)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self.stopping = True
