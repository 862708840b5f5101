"""One record of the profile store with all that is known about it, and what becomes of two records of one key."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any

from softneuro_tvm.errors import ProfileError
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler.keys import KEY_FIELDS, Key, is_current
from softneuro_tvm.profiler.schema import checksum

_TIME = "%Y-%m-%d %H:%M:%S"
_COLUMNS = ("digest", *KEY_FIELDS, "result", "created", "crc", "attempts")
_UPSERT = f"""
INSERT INTO measurement ({", ".join(_COLUMNS)}, device)
VALUES ({", ".join("?" * len(_COLUMNS))}, (SELECT id FROM device WHERE fingerprint = ?))
ON CONFLICT (digest) DO UPDATE SET result = excluded.result, created = excluded.created, crc = excluded.crc,
attempts = excluded.attempts, device = excluded.device
"""
_OWN = frozenset(("status", "samples_s", "error", "message", "sessions", "taken"))
"""Parts of a result that the store knows; others pass through unchanged and are also noted with their session."""


def now(days_ago: float = 0.0) -> str:
    """A time in UTC as the store writes it, which sorts as text."""
    return (datetime.now(timezone.utc) - timedelta(days=days_ago)).strftime(_TIME)


@dataclass(frozen=True)
class Samples:
    """What one process measured in one go.

    Args:
        samples_s: Seconds of one call in each timed sample.
        taken: ``session`` (stands for the process; absent if unknown), ``at`` (time in UTC), and what else the
            measurement carried.
    """

    samples_s: tuple[float, ...]
    taken: Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One record.

    Args:
        key: What was measured.
        result: The measurement as JSON values, with parts that `Measurement` does not know.
        created: When it was last measured, in UTC.
        attempts: How often it was measured.
        fingerprint: Of the machine that measured it last, see `softneuro_tvm.fingerprint`; None if unknown.
    """

    key: Key
    result: Mapping[str, Any]
    created: str
    attempts: int = 1
    fingerprint: Mapping[str, Any] | None = None

    @cached_property
    def measurement(self) -> Measurement:
        """The measurement.

        Raises:
            ProfileError: the result is not one.
        """
        return Measurement.from_json(self.result)

    def attempted(self, attempts: int) -> Row:
        """The same record with another number of attempts."""
        return replace(self, attempts=attempts)

    @property
    def current(self) -> bool:
        """False if the routine's source or TVM changed since: measuring anew would make another record."""
        return is_current(self.key)

    @property
    def sessions(self) -> tuple[Samples, ...]:
        """The samples, those of each process apart, the earliest first."""
        samples = self.measurement.samples_s
        counts = self.measurement.sessions
        if sum(counts) != len(samples):
            counts = (len(samples),)
        taken: Sequence[Mapping[str, Any]] = self.result.get("taken", ())
        if len(taken) != len(counts):
            taken = ({"at": self.created},) * len(counts)
        ends = [sum(counts[: i + 1]) for i in range(len(counts))]
        return tuple(Samples(samples[e - n : e], t) for e, n, t in zip(ends, counts, taken, strict=True))


def parse(digest: str, result: Any, crc: int | None) -> Mapping[str, Any]:
    """A stored result as JSON values.

    Args:
        digest: Of its key.
        result: The stored text.
        crc: The stored checksum; None if the record has none.

    Raises:
        ProfileError: the record is damaged.
    """
    if not isinstance(result, str) or (crc is not None and crc != checksum(digest, result)):
        raise ProfileError("its checksum is wrong: it was damaged on disk")
    try:
        found = json.loads(result)
    except ValueError as error:
        raise ProfileError(f"it is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise ProfileError("it is no measurement")
    return found


def measured(key: Key, measurement: Measurement, session: str, fingerprint: Mapping[str, Any] | None) -> Row:
    """A record of what was just measured."""
    result, time = measurement.to_json(), now()
    also = {name: value for name, value in result.items() if name not in _OWN}
    count = len(measurement.sessions) or 1
    return Row(key, {**result, "taken": [{"session": session, "at": time, **also}] * count}, time, 1, fingerprint)


def joined(earlier: Row, later: Row) -> Row:
    """The later record with the samples of the earlier one in front; samples that both have are kept once.

    Args:
        earlier: An ``ok`` record.
        later: An ``ok`` record of the same key.
    """
    seen = {session.samples_s for session in earlier.sessions}
    sessions = [*earlier.sessions, *(session for session in later.sessions if session.samples_s not in seen)]
    sessions.sort(key=lambda session: str(session.taken.get("at")))
    error = max(earlier.measurement.error, later.measurement.error)
    result = {
        **earlier.result,
        **later.result,
        "samples_s": [sample for session in sessions for sample in session.samples_s],
        "sessions": [len(session.samples_s) for session in sessions],
        "taken": [dict(session.taken) for session in sessions],
        "error": error if math.isfinite(error) else None,
    }
    attempts = max(earlier.attempts, later.attempts, len(sessions))
    return replace(later, result=result, attempts=attempts, fingerprint=later.fingerprint or earlier.fingerprint)


def merged(ours: Row, theirs: Row) -> Row:
    """What two stores together know about one key; the order does not matter, and merging again changes nothing.

    - Two ``ok`` records of machines that do not differ: the samples of both.
    - A verdict (``ok`` or ``wrong``) and a failure: the verdict.
    - Otherwise: the newer record.
    """
    older, newer = sorted((ours, theirs), key=lambda row: row.created)
    if ours.measurement.ok and theirs.measurement.ok and not _differ(ours.fingerprint, theirs.fingerprint):
        sessions = {session.samples_s for session in ours.sessions}
        return ours if sessions.issuperset(s.samples_s for s in theirs.sessions) else joined(older, newer)
    verdicts = [row for row in (ours, theirs) if row.measurement.status in ("ok", "wrong")]
    if len(verdicts) == 1:
        return verdicts[0]
    return ours if ours.created == newer.created else newer


def _differ(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    return one is not None and other is not None and one.get("digest") != other.get("digest")


def write(connection: sqlite3.Connection, row: Row) -> None:
    """Inserts or replaces a record, and its device where that is new."""
    fingerprint = None
    if row.fingerprint is not None:
        fingerprint = json.dumps(row.fingerprint, sort_keys=True)
        digest = str(row.fingerprint.get("digest"))
        connection.execute("INSERT OR IGNORE INTO device (digest, fingerprint) VALUES (?, ?)", (digest, fingerprint))
    result, digest = json.dumps(row.result), row.key.digest
    values = (result, row.created, checksum(digest, result), row.attempts, fingerprint)
    connection.execute(_UPSERT, (digest, *row.key.values, *values))
