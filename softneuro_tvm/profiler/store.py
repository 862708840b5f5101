"""The profile store: an SQLite file that remembers every measurement on this machine. Needs no TVM."""

from __future__ import annotations

import itertools
import json
import logging
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from platformdirs import user_cache_dir

from softneuro_tvm.errors import ProfileError
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler.keys import KEY_FIELDS, Key
from softneuro_tvm.profiler.rows import Row, Samples, joined, measured, merged, now, parse, write
from softneuro_tvm.profiler.salvage import Salvage
from softneuro_tvm.profiler.schema import ENVIRONMENT_VARIABLE, transaction
from softneuro_tvm.profiler.store_file import StoreFile

logger = logging.getLogger(__name__)

RETRY_AFTER_DAYS = 7.0
"""A candidate that crashed or ran out of time is measured again after so many days: the cause may be gone."""
MAX_ATTEMPTS = 3
"""A candidate that crashed or ran out of time so often is not measured again by itself."""

_EXPIRING = ("crash", "timeout")
_RETRIED = ("crash", "timeout", "error")
_CHUNK = 500
_SELECT = """
SELECT m.result, m.crc, m.created, m.attempts, d.fingerprint
FROM measurement AS m LEFT JOIN device AS d ON d.id = m.device WHERE m.digest = ?
"""
_NEAR = f"""
WITH near AS (
    SELECT id, row_number() OVER (PARTITION BY routine ORDER BY threads <> ?, digest) AS place FROM measurement
    WHERE part = ? AND target = ? AND routine IN (SELECT value FROM json_each(?))
    AND digest NOT IN (SELECT value FROM json_each(?))
)
SELECT digest, result, crc, {", ".join(KEY_FIELDS)} FROM near JOIN measurement USING (id) WHERE place <= ?
ORDER BY digest
"""


def default_path() -> Path:
    """Where the store lies unless a caller says otherwise: `SOFTNEURO_TVM_STORE` or the user's cache folder."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(named) if named else Path(user_cache_dir("softneuro_tvm")) / "profile.sqlite"


def _is_of(digest: str, key: Key) -> bool:
    """False for a key that was damaged on disk."""
    try:
        return key.digest == digest
    except TypeError:  # a column became bytes
        return False


class ProfileStore:
    """Measurements on disk. Several processes may use one file at once; a killed writer loses nothing but its own row.

    A damaged file is set aside under another name, and the records that can be read go into a new one; that happens
    when it is opened, or when the damage is met later. A store of an earlier version is brought up to date.

    Args:
        path: The file; made with its folder where absent. `default_path()` if None.
        fingerprint: Of this machine, see `softneuro_tvm.fingerprint`; noted with each record that is put.

    Raises:
        StoreError: the file cannot be opened or made, is no profile store, or a newer version of this package wrote it.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, fingerprint: Mapping[str, Any] | None = None
    ) -> None:
        self.path = Path(path) if path is not None else default_path()
        self.session = uuid.uuid4().hex[:12]
        self.fingerprint = fingerprint
        self.file = StoreFile(self.path)

    def get(self, key: Key) -> Measurement | None:
        """The measurement of this key, or None.

        Raises:
            StoreError: the file cannot be read.
        """
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[Key], *, retry_failed: bool = False) -> dict[Key, Measurement]:
        """The measurements that exist among these keys.

        A crash or time-out that is older than `RETRY_AFTER_DAYS` counts as missing until `MAX_ATTEMPTS` were made.

        Args:
            keys: What to look up.
            retry_failed: Count every crash, time-out and error as missing.

        Raises:
            StoreError: the file cannot be read.
        """
        by_digest = {key.digest: key for key in keys}
        digests, found, expired = list(by_digest), dict[Key, Measurement](), now(RETRY_AFTER_DAYS)
        for start in range(0, len(digests), _CHUNK):
            chunk = digests[start : start + _CHUNK]
            query = (
                "SELECT digest, result, crc, created, attempts FROM measurement "
                f"WHERE digest IN ({','.join('?' * len(chunk))})"
            )
            rows = self.file.run("read", lambda c, q=query, values=chunk: c.execute(q, values).fetchall())  # type: ignore[misc]
            for digest, result, crc, created, attempts in rows:
                measurement = self._measurement(digest, result, crc)
                if measurement is None or (retry_failed and measurement.status in _RETRIED):
                    continue
                if measurement.status in _EXPIRING and str(created) < expired and attempts < MAX_ATTEMPTS:
                    continue
                found[by_digest[digest]] = measurement
        return found

    def put(self, key: Key, measurement: Measurement, fingerprint: Mapping[str, Any] | None = None) -> None:
        """Writes one measurement, in a transaction of its own; replaces an earlier one of the same key.

        Args:
            key: What was measured.
            measurement: The result.
            fingerprint: Of the machine that measured it; the store's by default.

        Raises:
            StoreError: the file cannot be written.
        """
        self._put(measured(key, measurement, self.session, fingerprint or self.fingerprint), lambda old, new: new)

    def add_samples(
        self, key: Key, measurement: Measurement, fingerprint: Mapping[str, Any] | None = None
    ) -> Measurement:
        """Writes a further measurement of a key: the samples of all sessions are kept if the known and this one are ok.

        Nothing is lost if several processes add to one key at once.

        Args:
            key: What was measured.
            measurement: What was measured now, without earlier samples.
            fingerprint: Of the machine that measured it; the store's by default.

        Returns:
            The measurement as it is stored now.

        Raises:
            StoreError: the file cannot be written.
        """
        row = measured(key, measurement, self.session, fingerprint or self.fingerprint)
        return self._put(
            row, lambda old, new: joined(old, new) if old.measurement.ok and new.measurement.ok else new
        ).measurement

    def _put(self, row: Row, combine: Callable[[Row, Row], Row]) -> Row:
        """Writes a record that may depend on the one it replaces, and counts the attempts."""

        def work(connection: sqlite3.Connection) -> Row:
            with transaction(connection):
                earlier = self._row(connection, row.key)
                final = row if earlier is None else combine(earlier, row).attempted(earlier.attempts + 1)
                write(connection, final)
            return final

        return self.file.run("written", work)

    def absorb(self, rows: Iterable[Row]) -> tuple[int, int, int]:
        """Writes records of other stores; those of keys that are known are merged, see `rows.merged`.

        Args:
            rows: The records; each `_CHUNK` of them is one transaction, so others may write meanwhile.

        Returns:
            How many records were new, were changed, and stayed as they were.

        Raises:
            StoreError: the file cannot be written.
        """
        new = changed = same = 0
        iterator = iter(rows)
        while chunk := list(itertools.islice(iterator, _CHUNK)):

            def work(connection: sqlite3.Connection, chunk: list[Row] = chunk) -> tuple[int, int, int]:
                counts = [0, 0, 0]
                with transaction(connection):
                    for row in chunk:
                        ours = self._row(connection, row.key)
                        final = row if ours is None else merged(ours, row)
                        counts[0 if ours is None else 2 if final is ours else 1] += 1
                        if final is not ours:
                            write(connection, final)
                return counts[0], counts[1], counts[2]

            counts = self.file.run("written", work)
            new, changed, same = new + counts[0], changed + counts[1], same + counts[2]
        return new, changed, same

    def sessions(self, key: Key) -> tuple[Samples, ...]:
        """The samples of a key, those of each process that took some apart; empty if there are none.

        Raises:
            StoreError: the file cannot be read.
        """
        row = self.file.run("read", lambda connection: self._row(connection, key))
        return row.sessions if row else ()

    def rows(self) -> Iterator[Row]:
        """Every record with all that is known about it, those of one workload together.

        Raises:
            StoreError: the file cannot be read.
        """
        salvage = Salvage(self.path)
        with self.file.translated("read"):
            found = salvage.rows()
        for problem in salvage.problems:
            logger.warning("profile store %s: %s; it is ignored", self.path, problem)
        yield from found

    def records(self) -> Iterator[tuple[Key, Measurement]]:
        """Every key with its measurement, those of one workload together.

        Raises:
            StoreError: the file cannot be read.
        """
        for row in self.rows():
            yield row.key, row.measurement

    def records_near(self, keys: Iterable[Key], each: int) -> list[tuple[Key, Measurement]]:
        """Records from which something can be learnt about others: of the same routines on the same processor.

        Their workloads, numbers of threads, sources and versions of TVM may differ.

        Args:
            keys: What should be learnt about; their own records are left out.
            each: Records of one routine, at most: those of the same number of threads first, in an order that is
                repeatable and has nothing to do with what they are about.

        Raises:
            StoreError: the file cannot be read.
        """
        wanted = list(keys)
        if not wanted:
            return []
        values = (
            wanted[0].threads,
            wanted[0].part,
            wanted[0].target,
            json.dumps(list(dict.fromkeys(key.routine for key in wanted))),
            json.dumps([key.digest for key in wanted]),
            each,
        )
        found = []
        for row in self.file.run("read", lambda connection: connection.execute(_NEAR, values).fetchall()):
            digest, result, crc, *fields = row
            key, measurement = Key(*fields), self._measurement(digest, result, crc)
            if measurement is not None and _is_of(digest, key):
                found.append((key, measurement))
        return found

    def delete(self, keys: Iterable[Key]) -> int:
        """Removes records, all or none, and gives the space back; returns how many there were.

        Raises:
            StoreError: the file cannot be written.
        """
        digests = [(key.digest,) for key in keys]

        def work(connection: sqlite3.Connection) -> int:
            with transaction(connection):
                return connection.executemany("DELETE FROM measurement WHERE digest = ?", digests).rowcount

        count = self.file.run("written", work)
        self.file.run("compacted", lambda connection: connection.execute("VACUUM"))
        return count

    def _row(self, connection: sqlite3.Connection, key: Key) -> Row | None:
        values = connection.execute(_SELECT, (key.digest,)).fetchone()
        if values is None or self._measurement(key.digest, values[0], values[1]) is None:
            return None
        result, _, created, attempts, fingerprint = values
        return Row(key, json.loads(result), created, attempts, json.loads(fingerprint) if fingerprint else None)

    def _measurement(self, digest: str, result: Any, crc: int | None) -> Measurement | None:
        """A record's measurement; an unreadable record counts as unknown and will be replaced."""
        try:
            return Measurement.from_json(parse(digest, result, crc))
        except ProfileError as error:
            logger.warning("profile store %s: record %s is unreadable and is ignored (%s)", self.path, digest, error)
            return None

    def close(self) -> None:
        """Closes the file."""
        self.file.close()

    def __enter__(self) -> ProfileStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
