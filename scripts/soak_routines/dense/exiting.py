"""A dense layer that ends its process."""

from __future__ import annotations

from .._fault import Fault


class Exiting(Fault):
    """Ends its process as if all were well."""

    kind = "dense"
    function = "_exit"
    arguments = (3,)
