"""Compiled kernels on disk, so that what was compiled once is linked from then on. Needs no TVM."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_dir

logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "SOFTNEURO_TVM_OBJECTS"
"""Names the folder of the cache where no caller names one."""

LIMIT_BYTES = 1 << 30
"""What all objects together may take."""

_DIGEST_BYTES = hashlib.sha256().digest_size
_SHARDS = 256


def default_folder() -> Path:
    """Where objects lie unless a caller says otherwise: `SOFTNEURO_TVM_OBJECTS` or the user's cache folder."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(named) if named else Path(user_cache_dir("softneuro_tvm")) / "objects"


class ObjectCache:
    """Object files by key. Several processes may use one folder at once.

    A file is an object followed by the checksum of its bytes; one that does not fit its checksum is removed. Files lie
    in folders by the first two digits of their keys, each of which is held below its share of the limit by removing
    what was used longest ago. A folder that cannot be read or written costs time, not results: that is logged.

    Args:
        folder: Where objects lie; made when the first one is put. `default_folder()` if None.
        limit_bytes: What all objects together may take.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = Path(folder) if folder is not None else default_folder()
        self.limit_bytes = limit_bytes

    def get(self, key: str) -> bytes | None:
        """The object of this key; None if there is none, or none that is whole.

        Args:
            key: Hexadecimal digits.
        """
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("cannot use the compiled kernel %s (%s); it is compiled again", path, error)
            return None
        found, checksum = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if hashlib.sha256(found).digest() != checksum:
            logger.warning("the compiled kernel %s is damaged; it is compiled again", path)
            path.unlink(missing_ok=True)
            return None
        return found

    def put(self, key: str, data: bytes) -> None:
        """Keeps an object under a key: whole, or not at all.

        Args:
            key: Hexadecimal digits that stand for everything that the object depends on.
            data: Contents of the object file.
        """
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".", dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(data + hashlib.sha256(data).digest())
                os.replace(name, path)
            finally:
                Path(name).unlink(missing_ok=True)
            self._prune(path)
        except OSError as error:
            logger.warning("cannot keep compiled kernels in %s: %s", self.folder, error)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.o"

    def _prune(self, kept: Path) -> None:
        """Removes what was used longest ago from a folder that takes more than its share."""
        files, size = [], 0
        for entry in os.scandir(kept.parent):
            with suppress(FileNotFoundError):  # another process prunes, too
                status = entry.stat()
                files.append((status.st_mtime_ns, status.st_size, entry.path))
                size += status.st_size
        for _, size_bytes, path in sorted(files):
            if size <= self.limit_bytes // _SHARDS:
                return
            if path != str(kept):
                Path(path).unlink(missing_ok=True)
                size -= size_bytes
