"""Reads what is readable: whole stores of any version, damaged ones, and journals whose last rows are lost."""

from __future__ import annotations

import json
import sqlite3
import struct
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from softneuro_tvm.errors import ProfileError
from softneuro_tvm.profiler.keys import KEY_FIELDS, Key
from softneuro_tvm.profiler.rows import Row, parse
from softneuro_tvm.profiler.schema import Connection, connect, copied, is_corruption, reading, version_of

_COLUMNS = ", ".join(f"m.{name}" for name in ("digest", "result", *KEY_FIELDS, "created"))
_QUERY = f"SELECT {_COLUMNS}, m.crc, m.attempts, m.device FROM measurement AS m"
_QUERY_1 = f"SELECT {_COLUMNS}, NULL, 1, NULL FROM measurement AS m"
_PAGE_BYTES = 4096
_JOURNAL_AT = 18
_PAGE_COUNT_AT = 28
_TABLE_LEAF = 13
_WAL_MAGIC = 0x377F0682
_WAL_HEADER_BYTES = 32
_WAL_FRAME_HEADER_BYTES = 24


@dataclass
class Salvage:
    """Reads the records of a file that may be damaged, without changing it.

    Args:
        path: The file.
        problems: Changed: what could not be read, for people; one line for each record or reason.
    """

    path: Path
    problems: list[str] = field(default_factory=list)

    def rows(self, *, damaged: bool = False) -> list[Row]:
        """Every record that can be read, those of one workload together.

        Args:
            damaged: The file is known to be damaged: search every page, even if reading it as usual meets no error.

        Raises:
            StoreError: there is no such file, or a newer version of this package wrote it.
            OSError: it may not be read.
            sqlite3.OperationalError: it is locked.
        """
        found: dict[str, Row] = {}
        try:
            with reading(self.path) as connection:
                version = version_of(connection, self.path)
                devices = self._devices(connection) if version > 1 else {}
                for values in connection.execute(_QUERY if version > 1 else _QUERY_1):
                    self._add(values, devices, found, self.problems)
        except sqlite3.DatabaseError as error:
            if not is_corruption(error):
                raise
            self.problems.append(f"the file is damaged: {error}")
            damaged = True
        if damaged:
            with copied(self.path) as copy:
                self._search(copy, found)
        return sorted(found.values(), key=lambda row: (row.key.workload, row.key.digest))

    def _search(self, copy: Path, found: dict[str, Row]) -> None:
        """Reads the records page by page, so that a page which cannot be read, or not be reached, costs no others.

        SQLite itself reads the pages: each in turn takes the place of the table's root. Pages of other tables, and
        old versions of records on free pages, yield records whose checksums are wrong, or that are older.

        Args:
            copy: Changed: a copy of the file.
            found: Changed: receives the records.
        """
        root = _renew_first_page(copy, with_log=True)
        try:
            with closing(Connection(copy)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.DatabaseError as error:
            self.problems.append(f"the log cannot be read: {error}")
        copy.with_name(f"{copy.name}-wal").unlink(missing_ok=True)
        _renew_first_page(copy, with_log=False)
        with closing(Connection(copy)) as connection:
            devices = self._devices(connection)
        data = copy.read_bytes()
        with copy.open("r+b", buffering=0) as stream:
            for start in range(_PAGE_BYTES, len(data), _PAGE_BYTES):
                page = data[start : start + _PAGE_BYTES]
                if page[0] != _TABLE_LEAF or len(page) < _PAGE_BYTES:
                    continue
                stream.seek((root - 1) * _PAGE_BYTES)
                stream.write(page)
                try:
                    with closing(Connection(copy)) as connection:
                        for values in connection.execute(_QUERY):
                            self._add(values, devices, found, [])
                except sqlite3.DatabaseError as error:
                    self.problems.append(f"page {start // _PAGE_BYTES + 1}: {error}")

    def _devices(self, connection: sqlite3.Connection) -> dict[int, Mapping[str, Any]]:
        try:
            return {
                number: json.loads(text) for number, text in connection.execute("SELECT id, fingerprint FROM device")
            }
        except (sqlite3.Error, ValueError, TypeError) as error:
            self.problems.append(f"the devices cannot be read: {error}")
            return {}

    def _add(
        self,
        values: tuple[Any, ...],
        devices: Mapping[int, Mapping[str, Any]],
        found: dict[str, Row],
        problems: list[str],
    ) -> None:
        """Adds the record that the columns of a row make, if it is sound and no newer one is there."""
        digest, result, *fields = values
        key_values, (created, crc, attempts, device) = fields[: len(KEY_FIELDS)], fields[len(KEY_FIELDS) :]
        try:
            key = Key(*key_values)
            if key.digest != digest:
                raise ProfileError("its key was damaged on disk")
            row = Row(key, parse(digest, result, crc), str(created), int(attempts), devices.get(device))
            row.measurement  # noqa: B018  raises if it is none
        except (ProfileError, ValueError, TypeError) as error:
            problems.append(f"record {digest}: {error}")
            return
        known = found.get(digest)
        if known is None or (known.created, known.attempts) < (row.created, row.attempts):
            found[digest] = row


def _renew_first_page(path: Path, *, with_log: bool) -> int:
    """Gives a damaged file the header and the list of tables that a new store has: they lie at the same places.

    Args:
        path: The file.
        with_log: Let SQLite read its log.

    Returns:
        The page number of the root of the table of measurements.
    """
    new, root = _first_page()
    page = bytearray(new)
    page[_JOURNAL_AT : _JOURNAL_AT + 2] = b"\2\2" if with_log else b"\1\1"
    struct.pack_into(">3I", page, _PAGE_COUNT_AT, path.stat().st_size // _PAGE_BYTES, 0, 0)  # no free pages
    with path.open("r+b") as stream:
        stream.write(page)
    return root


@lru_cache
def _first_page() -> tuple[bytes, int]:
    """The first page of a new store, and the number of the page with the root of the table of measurements."""
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / "new.sqlite"
        with closing(connect(new)) as connection:
            query = "SELECT rootpage FROM sqlite_master WHERE name = 'measurement'"
            root = int(connection.execute(query).fetchone()[0])
        return new.read_bytes()[:_PAGE_BYTES], root


class Journal:
    """Finds out whether committed records were lost because a store's write-ahead log is damaged.

    SQLite silently drops a log from its first damaged frame on. A killed writer leaves frames without a commit at the
    end; commits that belong to this log and are dropped mean damage.

    Args:
        path: The store's file, before it is opened to be written.
    """

    def __init__(self, path: Path) -> None:
        self._store, self._path = path, path.with_name(path.name + "-wal")
        self._before = self._header()
        self._commits = self._commit_frames()

    def lost_commits(self) -> int:
        """How many commits of the log SQLite drops when it opens the store; 0 if another process renews the log now.

        Raises:
            sqlite3.Error: the file is damaged or locked.
        """
        if not self._commits:
            return 0
        with closing(Connection(self._store)) as connection:
            valid = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
            return sum(frame >= valid for frame in self._commits) if self._header() == self._before else 0

    def _header(self) -> bytes:
        try:
            with self._path.open("rb") as stream:
                return stream.read(_WAL_HEADER_BYTES)
        except FileNotFoundError:
            return b""

    def _commit_frames(self) -> list[int]:
        """Numbers of the frames that end a transaction of the present log."""
        if len(self._before) < _WAL_HEADER_BYTES:
            return []
        if not _sound(self._before):
            return [0] if self._path.stat().st_size > _WAL_HEADER_BYTES else []
        frame_bytes, salts = _WAL_FRAME_HEADER_BYTES + struct.unpack_from(">I", self._before, 8)[0], self._before[16:24]
        found = []
        with self._path.open("rb") as stream:  # of a frame that ends before its page does, SQLite reported an error
            for number in range((self._path.stat().st_size - _WAL_HEADER_BYTES) // frame_bytes):
                stream.seek(_WAL_HEADER_BYTES + number * frame_bytes)
                header = stream.read(_WAL_FRAME_HEADER_BYTES)
                if header[8:16] == salts and header[4:8] != bytes(4):
                    found.append(number)
        return found


def _sound(header: bytes) -> bool:
    """True if the checksum of a log's header is right; SQLite drops a log for which it is not."""
    magic = struct.unpack_from(">I", header)[0]
    words = struct.unpack_from(f"{'>' if magic & 1 else '<'}6I", header)
    first = second = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return magic & ~1 == _WAL_MAGIC and struct.unpack_from(">2I", header, 24) == (first, second)
