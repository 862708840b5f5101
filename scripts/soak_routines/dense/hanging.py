"""A dense layer that hangs."""

from __future__ import annotations

from .._fault import Fault


class Hanging(Fault):
    """Never returns."""

    kind = "dense"
    function = "pause"
