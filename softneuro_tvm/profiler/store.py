"""The profile store: an SQLite file that remembers every measurement on this machine. Needs no TVM."""

from __future__ import annotations

import fcntl
import itertools
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from types import TracebackType

from platformdirs import user_cache_dir

from softneuro_tvm.errors import ProfileError, StoreError
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler.keys import Key

logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "SOFTNEURO_TVM_STORE"
"""Names another file for the store."""

_SCHEMA_VERSION = 1
_COLUMNS = tuple(field.name for field in fields(Key))
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS measurement (
    digest TEXT PRIMARY KEY, {", ".join(f"{column} NOT NULL" for column in _COLUMNS)},
    result TEXT NOT NULL, created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
) WITHOUT ROWID
"""
_CHUNK = 500
_BUSY_TIMEOUT_S = 30.0


def default_path() -> Path:
    """Where the store lies unless a caller says otherwise: `SOFTNEURO_TVM_STORE` or the user's cache folder."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(named) if named else Path(user_cache_dir("softneuro_tvm")) / "profile.sqlite"


class ProfileStore:
    """Measurements on disk. Several processes may use one file at once; a killed writer loses nothing but its own row.

    Args:
        path: The file; made with its folder where absent. `default_path()` if None.

    Raises:
        StoreError: the file cannot be opened or made, or a newer version of this package wrote it.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path) if path is not None else default_path()
        with self._translated("opened"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_name(self.path.name + ".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # two openers must not both set a corrupt file aside
                try:
                    self._connection = self._open()
                except sqlite3.DatabaseError as error:
                    if not _is_corruption(error):
                        raise
                    self._set_aside(error)
                    self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        try:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > _SCHEMA_VERSION:
                raise StoreError(
                    f"profile store {self.path} was written by a newer softneuro_tvm (schema {version}); "
                    f"upgrade, or choose another file with {ENVIRONMENT_VARIABLE}"
                )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self, cause: Exception) -> None:
        """Renames a corrupt file (and its journal, which belongs to it) so that a new one takes its place."""
        for number in itertools.count(1):
            aside = self.path.with_name(f"{self.path.name}.corrupt-{number}")
            if not aside.exists():
                break
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        logger.warning("profile store %s is corrupt (%s); renamed to %s, a new one begins", self.path, cause, aside)

    @contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        """Turns SQLite's and the file system's errors into a `StoreError` that says what to do."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            text = str(error).lower()
            if isinstance(error, sqlite3.DatabaseError) and _is_corruption(error):
                remedy = "run again: opening it sets the corrupt file aside and begins a new one"
            elif "full" in text or "no space" in text:
                remedy = "free some space on that disk"
            elif "locked" in text or "busy" in text:
                remedy = "another process keeps it locked: wait for it or end it"
            else:
                remedy = "make the file and its folder writable"
            raise StoreError(
                f"profile store {self.path} cannot be {action}: {error}; {remedy}, "
                f"or choose another file with {ENVIRONMENT_VARIABLE}"
            ) from error

    def get(self, key: Key) -> Measurement | None:
        """The measurement of this key, or None.

        Raises:
            StoreError: the file cannot be read.
        """
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Measurement]:
        """The measurements that exist among these keys.

        Raises:
            StoreError: the file cannot be read.
        """
        by_digest = {key.digest: key for key in keys}
        digests, found = list(by_digest), dict[Key, Measurement]()
        for start in range(0, len(digests), _CHUNK):
            chunk = digests[start : start + _CHUNK]
            query = f"SELECT digest, result FROM measurement WHERE digest IN ({','.join('?' * len(chunk))})"
            with self._translated("read"):
                rows = self._connection.execute(query, chunk).fetchall()
            for digest, result in rows:
                measurement = self._parse(digest, result)
                if measurement is not None:
                    found[by_digest[digest]] = measurement
        return found

    def put(self, key: Key, measurement: Measurement) -> None:
        """Writes one measurement, in a transaction of its own; replaces an earlier one of the same key.

        Raises:
            StoreError: the file cannot be written.
        """
        values = (key.digest, *astuple(key), json.dumps(measurement.to_json()))
        columns = ", ".join(("digest", *_COLUMNS, "result"))
        with self._translated("written"):
            self._connection.execute(
                f"INSERT OR REPLACE INTO measurement ({columns}) VALUES ({','.join('?' * len(values))})", values
            )

    def records(self) -> Iterator[tuple[Key, Measurement]]:
        """Every record, those of one workload together.

        Raises:
            StoreError: the file cannot be read.
        """
        with self._translated("read"):
            columns = ", ".join(("digest", "result", *_COLUMNS))
            rows = self._connection.execute(f"SELECT {columns} FROM measurement ORDER BY workload, digest").fetchall()
        for digest, result, *values in rows:
            measurement = self._parse(digest, result)
            if measurement is not None:
                yield Key(*values), measurement

    def _parse(self, digest: str, result: str) -> Measurement | None:
        """A row's measurement; an unreadable row counts as unknown and will be replaced."""
        try:
            return Measurement.from_json(json.loads(result))
        except (ValueError, ProfileError) as error:
            logger.warning("profile store %s: record %s is unreadable and is ignored (%s)", self.path, digest, error)
            return None

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def __enter__(self) -> ProfileStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_corruption(error: sqlite3.DatabaseError) -> bool:
    """True for damaged files: sqlite3 raises the base class for them, and subclasses for locks and full disks."""
    return type(error) is sqlite3.DatabaseError
