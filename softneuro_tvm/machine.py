"""Shares the machine between this user's measuring processes."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from softneuro_tvm.errors import ProfileError


def lock_path() -> Path:
    """The lock file, one for each user of this machine."""
    return Path(tempfile.gettempdir()) / f"softneuro_tvm-{os.getuid()}.lock"


@contextmanager
def machine_lock(exclusive: bool = True) -> Iterator[None]:
    """Waits for the machine: while somebody measures (exclusive), nobody else measures or compiles (shared).

    Args:
        exclusive: True to measure, False for other heavy work.

    Raises:
        ProfileError: the lock file cannot be written.
    """
    try:
        handle = os.open(lock_path(), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ProfileError(f"the lock file {lock_path()} cannot be written: {error}; set TMPDIR") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)
