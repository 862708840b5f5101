"""A convolution that crashes."""

from __future__ import annotations

from .._fault import Fault


class Aborting(Fault):
    """Takes its process down."""

    kind = "conv2d"
    function = "abort"
