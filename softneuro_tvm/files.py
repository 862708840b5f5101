"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from softneuro_tvm.errors import BuildError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, with its suffix; renames it on success, removes it on failure.

    Raises:
        BuildError: the folder is missing, not writable, or full.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise BuildError(f"cannot write {str(path)!r}: {reason}; free space or choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Finds out before long work whether a file can be written afterwards.

    Raises:
        BuildError: the folder is missing or not writable.
    """
    _temporary(path).unlink()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file through a temporary name."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _temporary(path: Path) -> Path:
    """Makes an empty file beside another one."""
    try:
        handle, name = tempfile.mkstemp(suffix=path.suffix, prefix=f".{path.stem}.", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise BuildError(f"cannot write {str(path)!r}: {error.strerror}; choose another folder with -o") from error
    return Path(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
