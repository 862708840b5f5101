"""The tables of the profile store, how earlier versions are brought up to date, and how files are opened."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from softneuro_tvm.errors import StoreError
from softneuro_tvm.profiler.keys import KEY_FIELDS

ENVIRONMENT_VARIABLE = "SOFTNEURO_TVM_STORE"
"""Names another file for the store."""
SCHEMA_VERSION = 2
"""1: one table, without what is below. 2: checksums, attempts and the device of each record."""
BUSY_TIMEOUT_S = 30.0
"""How long another process may keep the file locked."""

_MAGIC = b"SQLite format 3\0"
_DEVICE = """
CREATE TABLE device (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL, fingerprint TEXT NOT NULL UNIQUE,
    created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
)
"""
# a table with row ids: its rows need half the space that they take in one without
_MEASUREMENT = f"""
CREATE TABLE measurement (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, {", ".join(f"{name} NOT NULL" for name in KEY_FIELDS)},
    result TEXT NOT NULL, created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    crc INTEGER, attempts INTEGER NOT NULL DEFAULT 1, device INTEGER REFERENCES device (id)
)
"""
_KEPT = ", ".join(("digest", *KEY_FIELDS, "result", "created"))


def checksum(digest: str, result: str) -> int:
    """Tells a record that was damaged on disk from an intact one; SQLite itself keeps no checksums of its tables."""
    return zlib.crc32(f"{digest}{result}".encode(errors="replace"))


def is_corruption(error: BaseException) -> bool:
    """True for damaged files: sqlite3 raises the base class for them, and subclasses for locks and full disks.

    Tables that are not those of the file's version mean damage, too.
    """
    if isinstance(error, sqlite3.OperationalError):
        return any(text in str(error) for text in ("no such table", "no such column", "already exists"))
    return type(error) is sqlite3.DatabaseError or isinstance(error, sqlite3.DataError)


def lock_path(path: Path) -> Path:
    """The file that is locked while a store is opened; it stays, and shows that there was a store."""
    return path.with_name(path.name + ".lock")


def refuse_foreign(path: Path) -> None:
    """Refuses a file that never was a store: it must not be taken for a damaged one and be renamed.

    Raises:
        StoreError: it is a folder, or another kind of file.
        OSError: it may not be read.
    """
    if path.is_dir():
        raise StoreError(f"profile store {path} is a folder; name a file in it, e.g. {path / 'profile.sqlite'}")
    if path.exists() and not lock_path(path).exists():
        with path.open("rb") as stream:
            if stream.read(len(_MAGIC)) not in (b"", _MAGIC):
                raise StoreError(f"{path} is no profile store (no SQLite file); name another file")


class Connection(sqlite3.Connection):
    """A connection to a file that may be damaged: damaged text neither ends a query nor changes the kind of an error.

    Args:
        path: The file.
        only_read: Make no file, and change no record.
    """

    def __init__(self, path: Path, *, only_read: bool = False) -> None:
        # not mode=ro, which would leave the files behind that SQLite makes beside an open one
        name = f"file:{quote(str(path.absolute()))}?mode={'rw' if only_read else 'rwc'}"
        super().__init__(name, timeout=BUSY_TIMEOUT_S, isolation_level=None, uri=True)
        if only_read:
            self.execute("PRAGMA query_only = ON")
        self.text_factory = lambda data: data.decode(errors="replace")  # the checksum of such text is wrong

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        """Runs a statement; raises sqlite3's errors only."""
        try:
            return super().execute(*arguments)
        except UnicodeDecodeError as error:  # the message of sqlite3's own error quotes damaged text
            raise sqlite3.DatabaseError("its list of tables is damaged") from error


def connect(path: Path) -> sqlite3.Connection:
    """Opens a store to write, makes or updates its tables, and checks that the file is sound.

    Raises:
        StoreError: a newer version of this package wrote it.
        sqlite3.Error: the file is damaged, locked or not writable.
    """
    connection = Connection(path)
    try:
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        version = version_of(connection, path)
        if version != SCHEMA_VERSION:
            with transaction(connection):
                _update(connection, path)
        if version == 1:
            connection.execute("VACUUM")  # the tables of the earlier version leave much free space
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode = WAL")  # after the tables: they must not hang on the log
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")  # fails now, not after long work, if at all
        connection.execute("ROLLBACK")
        connection.execute(f"SELECT {_KEPT}, crc, attempts, device FROM measurement LIMIT 0")
    except sqlite3.OperationalError as error:
        connection.close()
        if "readonly" in str(error) and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
            raise sqlite3.DatabaseError("its header wrongly says that it may not be written") from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Opens a file to read it as it is: nothing is made, updated, checked or set aside.

    Where SQLite cannot do that (it makes a file beside it: not in a read-only folder, nor on a full disk), a copy is
    read.

    Raises:
        StoreError: there is no such file, it is no store, or a newer version of this package wrote it.
        OSError: it cannot be copied.
        sqlite3.Error: the file is damaged or locked.
    """
    refuse_foreign(path)
    if not path.exists():
        raise StoreError(f"there is no profile store {str(path)!r}; check the name")
    with ExitStack() as stack:
        connection = Connection(path, only_read=True)
        try:
            connection.execute("PRAGMA schema_version")
        except sqlite3.OperationalError as error:
            connection.close()
            if "locked" in str(error):
                raise
            copy = stack.enter_context(copied(path))
            connection = Connection(copy)
        stack.callback(connection.close)
        version_of(connection, path)
        yield connection


@contextmanager
def copied(path: Path) -> Iterator[Path]:
    """A copy of a store with its log or journal, in a temporary folder.

    Raises:
        OSError: it cannot be copied.
    """
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal", "-journal"):
            if (part := path.with_name(path.name + suffix)).exists():
                shutil.copyfile(part, Path(folder) / f"copy.sqlite{suffix}")
        yield Path(folder) / "copy.sqlite"


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """The version of a file's tables; 0 for an empty file.

    Raises:
        StoreError: a newer version of this package wrote it.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"profile store {path} was written by a newer softneuro_tvm (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); upgrade, or choose another file with {ENVIRONMENT_VARIABLE}"
        )
    return version


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Everything or nothing; waits for other writers at its beginning, so that what is read inside stays true."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _update(connection: sqlite3.Connection, path: Path) -> None:
    """Brings the tables up to date; the version is set in the same transaction, so a kill leaves the old file."""
    version = version_of(connection, path)
    if version == SCHEMA_VERSION:  # another process was faster
        return
    tables = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version == 0 and tables:
        if "measurement" in tables:
            raise sqlite3.DatabaseError("its version is lost")
        raise StoreError(f"{path} is another program's database ({', '.join(sorted(tables))}); name another file")
    if version == 1:
        connection.create_function("checksum", 2, checksum, deterministic=True)
        connection.execute("ALTER TABLE measurement RENAME TO earlier")
    connection.execute(_DEVICE)
    connection.execute(_MEASUREMENT)
    if version == 1:
        connection.execute(
            f"INSERT INTO measurement ({_KEPT}, crc) "
            f"SELECT {_KEPT}, checksum(digest, result) FROM earlier ORDER BY created, digest"
        )
        connection.execute("DROP TABLE earlier")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
