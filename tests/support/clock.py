"""A clock that stands still unless it is told to go on, for tests of deadlines."""

from __future__ import annotations

from types import ModuleType

import pytest


class Clock:
    """Stands in for `time` in a module.

    Attributes:
        now_s: What it shows.
    """

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Goes on by so much at once."""
        self.now_s += seconds

    def rules(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> Clock:
        """Itself, from now on the clock of this module."""
        monkeypatch.setattr(module, "time", self)
        return self
