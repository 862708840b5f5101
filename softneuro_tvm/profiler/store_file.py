"""The file of a profile store: opened by one process at a time, replaced when it is damaged, errors explained."""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from softneuro_tvm.errors import StoreError
from softneuro_tvm.profiler import schema
from softneuro_tvm.profiler.rows import Row, write
from softneuro_tvm.profiler.salvage import Journal, Salvage
from softneuro_tvm.profiler.schema import (
    ENVIRONMENT_VARIABLE,
    connect,
    is_corruption,
    lock_path,
    refuse_foreign,
    transaction,
)

logger = logging.getLogger(__name__)

_SMALLEST_BYTES = 512
_Result = TypeVar("_Result")


class StoreFile:
    """An open file with the tables of a profile store.

    A damaged file is set aside under another name, and the records that can be read go into a new one; that happens
    when it is opened, or when the damage is met later.

    Args:
        path: The file; made with its folder where absent.

    Raises:
        StoreError: the file cannot be opened or made, is no profile store, or a newer version of this package wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self.translated("opened"):
            refuse_foreign(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._opening():
                self._connection = self._open()

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """One opener at a time: two must not both set a damaged file aside."""
        path = lock_path(self.path)
        used = path.exists()
        with path.open("a") as lock:
            deadline_s = time.monotonic() + schema.BUSY_TIMEOUT_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline_s:
                        raise sqlite3.OperationalError("it is locked: another process has been opening it") from None
                    time.sleep(0.005)
            if used and self.path.exists() and self.path.stat().st_size < _SMALLEST_BYTES:  # SQLite takes it as new
                logger.warning("profile store %s is empty although it was used before: its records are lost", self.path)
            yield

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if not is_corruption(error):
                raise
            self._replace(error)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        self._inode = -1
        lost = Journal(self.path).lost_commits()
        connection = connect(self.path)
        if lost:
            logger.warning(
                "profile store %s: its log is damaged; the last records (about %d) are lost", self.path, lost
            )
        self._inode = self.path.stat().st_ino
        return connection

    def _replace(self, cause: Exception) -> None:
        """Sets a damaged file (with its log) aside; a new one with all records that can be read takes its place."""
        for number in itertools.count(1):
            aside = self.path.with_name(f"{self.path.name}.corrupt-{number}")
            if not aside.exists():
                break
        salvage = Salvage(self.path)
        rows = salvage.rows(damaged=True)
        new = self._written(rows)
        for suffix in ("-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        try:
            os.link(self.path, aside)  # so that there is a file under the name at any time
        except OSError:  # this file system has no links
            self.path.rename(aside)
        new.replace(self.path)
        problems = "".join(f"\n  {problem}" for problem in salvage.problems[:10])
        found = f"is damaged ({cause}); renamed to {aside}"
        logger.warning(
            "profile store %s %s, a new one has the %d record(s) that can be read%s",
            *(self.path, found, len(rows), problems),
        )

    def _written(self, rows: Iterable[Row]) -> Path:
        """Writes records to a new file beside this one."""
        new = self.path.with_name(f"{self.path.name}.new")
        parts = [new.with_name(new.name + suffix) for suffix in ("", "-wal", "-shm")]
        for part in parts:  # a killed process may have left some
            part.unlink(missing_ok=True)
        try:
            with closing(connect(new)) as connection, transaction(connection):
                for row in rows:
                    write(connection, row)
        except BaseException:
            for part in parts:
                part.unlink(missing_ok=True)
            raise
        return new

    @contextmanager
    def translated(self, action: str) -> Iterator[None]:
        """Turns SQLite's and the file system's errors into a `StoreError` that says what to do."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"profile store {self.path} cannot be {action}: {error}; {_remedy(error)}, "
                f"or choose another file with {ENVIRONMENT_VARIABLE}"
            ) from error

    def run(self, action: str, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Does something with the file; one that was replaced, or is found to be damaged, is opened again first.

        Args:
            action: What is done, as a participle, for messages.
            work: Does it; may be called a second time after an error.

        Raises:
            StoreError: it cannot be done.
        """
        with self.translated(action):
            if self._inode_now() != self._inode:
                self._reopen(None)
            try:
                return work(self._connection)
            except sqlite3.DatabaseError as error:
                if not is_corruption(error):
                    raise
                self._reopen(error)
                return work(self._connection)

    def set_aside(self, cause: Exception) -> None:
        """Treats the file as damaged.

        Args:
            cause: What is wrong with it.

        Raises:
            StoreError: a new file cannot be written.
        """
        with self.translated("replaced"):
            self._reopen(cause)

    def _inode_now(self) -> int:
        """Stands for the file that has the name now; 0 if there is none."""
        try:
            return self.path.stat().st_ino
        except FileNotFoundError:
            return 0

    def _reopen(self, damage: Exception | None) -> None:
        self._connection.close()
        opened, self._inode = self._inode, -1
        with self._opening():
            if damage and self._inode_now() == opened:  # else another process has replaced it
                self._replace(damage)
            self._connection = self._open()

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()


def _remedy(error: Exception) -> str:
    text = str(error).lower()
    if is_corruption(error):
        return "run again: opening it sets the damaged file aside and begins a new one"
    if "full" in text or "no space" in text or "too large" in text or "disk i/o" in text or "quota" in text:
        return "free some space on that disk"
    if "locked" in text or "busy" in text:
        return "another process keeps it locked: wait for it or end it"
    return "make the file and its folder writable"
