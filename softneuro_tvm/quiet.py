"""Keeps TVM 0.27's debugging chatter off the screen."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_CHATTER = (b"Warning: Scope Saving:", b"Warning: Scope Loaded:")


@contextmanager
def quiet_constants() -> Iterator[None]:
    """Hides the line that TVM's C++ code writes for every constant it saves or loads; all else on stderr passes."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            caught.seek(0)
            for line in caught:
                if not any(text in line for text in _CHATTER):
                    os.write(2, line)
