"""Kills and stops processes of a tuning run at random; what comes in which order is decided by a seed."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from soak_processes import Process, Supervised, descendants, send, talking_to

WEIGHTS = {"kernel": 4, "server": 3, "client": 2, "tracker": 1}
"""How often each kind of victim is chosen. kernel: the process of a session on a board, in which kernels run; server: a
board's server; client: a child of the tuner that holds a session."""
SIGNALS = {signal.SIGKILL: 3, signal.SIGTERM: 1, signal.SIGSTOP: 1}
_SHORTEST_STOP_S = 0.3
_PATIENCE_S = 1.5
"""So long a victim that is not there is waited for: sessions are short."""


@dataclass(frozen=True)
class _Deed:
    """What is to be done: when, to whom (which of several), and for how long if it is to stop."""

    at_s: float
    victim: str
    signal: signal.Signals
    place: float
    stop_s: float


class Chaos:
    """A thread that does harm while it is let loose.

    Args:
        seed: Decides what is done.
        servers: The boards.
        tracker: Their tracker.
        mean_s: Seconds between two deeds, on average.
        longest_stop_s: Processes that are stopped go on after this time, at most.

    Attributes:
        counts: What was done, by victim and signal; the signal is "" where there was no such process.
        loose_s: Seconds for which it was let loose.
    """

    def __init__(
        self, seed: int, servers: Sequence[Supervised], tracker: Supervised, mean_s: float, longest_stop_s: float
    ) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.loose_s = 0.0
        self._random = random.Random(seed)
        self._servers, self._tracker = servers, tracker
        self._mean_s, self._longest_stop_s = mean_s, longest_stop_s
        self._tuner: int | None = None
        self._stopped: list[tuple[float, Process]] = []
        self._lock, self._ending = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def let_loose(self, tuner: int | None) -> None:
        """Begins to harm a tuner's run, by its process number; None: harms nobody, and lets all go on."""
        with self._lock:
            self._tuner = tuner
            if tuner is None:
                self._resume(float("inf"))

    def end(self) -> None:
        """Ends the thread; nothing stays stopped."""
        self.let_loose(None)
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        deed, last_s = self._drawn_deed(0.0), time.monotonic()
        while not self._ending.wait(0.05):
            with self._lock:
                now_s = time.monotonic()
                self._resume(now_s)
                if self._tuner is not None:
                    self.loose_s += now_s - last_s
                    if self.loose_s >= deed.at_s and self._done(deed, self._tuner):
                        deed = self._drawn_deed(deed.at_s)
                last_s = now_s

    def _drawn_deed(self, after_s: float) -> _Deed:
        generator = self._random
        return _Deed(
            at_s=after_s + generator.expovariate(1 / self._mean_s),
            victim=generator.choices(list(WEIGHTS), list(WEIGHTS.values()))[0],
            signal=generator.choices(list(SIGNALS), list(SIGNALS.values()))[0],
            place=generator.random(),
            stop_s=generator.uniform(_SHORTEST_STOP_S, self._longest_stop_s),
        )

    def _done(self, deed: _Deed, tuner: int) -> bool:
        """Does it; False if there is nobody yet to do it to."""
        found = self._victims(deed.victim, tuner)
        if found and send(chosen := found[int(deed.place * len(found))], deed.signal):
            self.counts[deed.victim, deed.signal.name] += 1
            if deed.signal == signal.SIGSTOP:
                self._stopped.append((time.monotonic() + deed.stop_s, chosen))
            return True
        if self.loose_s > deed.at_s + _PATIENCE_S:
            self.counts[deed.victim, ""] += 1
            return True
        return False

    def _victims(self, victim: str, tuner: int) -> list[Process]:
        servers = [process for server in self._servers if (process := server.process)]
        if victim == "server":
            return servers
        if victim == "tracker":
            return [process] if (process := self._tracker.process) else []
        if victim == "kernel":
            return [child for server in servers for child in descendants(server.pid)]
        return talking_to(descendants(tuner), {server.port for server in self._servers})

    def _resume(self, now_s: float) -> None:
        """Lets stopped processes go on whose time is over."""
        for until_s, process in self._stopped:
            if until_s <= now_s:
                send(process, signal.SIGCONT)
        self._stopped = [(until_s, process) for until_s, process in self._stopped if until_s > now_s]
