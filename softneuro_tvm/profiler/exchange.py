"""Takes records from one store to another: export to a text file, import, merge; checks and prunes a store."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import re
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from softneuro_tvm.errors import BuildError, ProfileError, StoreError
from softneuro_tvm.files import replacing
from softneuro_tvm.profiler.keys import KEY_FIELDS, Key
from softneuro_tvm.profiler.rows import Row, now
from softneuro_tvm.profiler.salvage import Salvage
from softneuro_tvm.profiler.schema import SCHEMA_VERSION, is_corruption, reading, version_of
from softneuro_tvm.profiler.store import ProfileStore

_FORMAT = "softneuro_tvm profile"
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_LINE_BYTES = 16 << 20
_LARGEST = 1 << 31


@dataclass(frozen=True)
class Transfer:
    """What became of the records that were taken over.

    Args:
        new: Records of keys that were not known.
        changed: Records that were merged into known ones.
        same: Records that brought nothing new.
        problems: Lines or records that were left out, each with its place and the reason.
    """

    new: int
    changed: int
    same: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Health:
    """The state of a store.

    Args:
        path: The file.
        schema: Version of its tables; None if the file is too damaged to tell.
        size_bytes: Of the file and its log.
        damage: What SQLite's complete check found; empty if the file is sound.
        unreadable: Records that cannot be read, each with the reason.
        outdated: Readable records of which the routine's source or TVM changed since; None if not counted.
        statuses: Readable records by status.
        devices: Readable records by device: pairs of fingerprint (None if unknown) and number.
        first: When the oldest record was measured, in UTC; empty without records.
        last: When the newest record was measured.
    """

    path: Path
    schema: int | None
    size_bytes: int
    damage: tuple[str, ...]
    unreadable: tuple[str, ...]
    outdated: int | None
    statuses: Mapping[str, int]
    devices: Sequence[tuple[Mapping[str, Any] | None, int]]
    first: str
    last: str

    @property
    def sound(self) -> bool:
        """True if nothing needs to be repaired; outdated records do no harm."""
        return not self.damage and not self.unreadable

    @property
    def records(self) -> int:
        """Readable records."""
        return sum(self.statuses.values())


def inspect_store(path: Path, *, count_outdated: bool = False) -> Health:
    """Looks at a store without changing it, whatever its state.

    Args:
        path: The file.
        count_outdated: Also count the outdated records, for which all routines are imported.

    Raises:
        StoreError: there is no such file, it cannot be read, or a newer version of this package wrote it.
    """
    damage: list[str] = []
    schema: int | None = None
    salvage = Salvage(path)
    try:
        try:
            with reading(path) as connection:
                schema = version_of(connection, path)
                damage = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]
        except sqlite3.DatabaseError as error:
            if not is_corruption(error):
                raise
            damage.append(str(error))
        rows = salvage.rows()
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"profile store {path} cannot be read: {error}; is it locked or not readable?") from error
    devices = Counter(json.dumps(row.fingerprint, sort_keys=True) for row in rows)
    parts = (path, path.with_name(path.name + "-wal"))
    times = sorted(row.created for row in rows)
    return Health(
        path=path,
        schema=schema,
        size_bytes=sum(part.stat().st_size for part in parts if part.exists()),
        damage=tuple(damage),
        unreadable=tuple(salvage.problems),
        outdated=sum(not row.current for row in rows) if count_outdated else None,
        statuses=dict(sorted(Counter(row.measurement.status for row in rows).items())),
        devices=[(json.loads(text), count) for text, count in devices.most_common()],
        first=times[0] if times else "",
        last=times[-1] if times else "",
    )


def repair_store(path: Path) -> Health:
    """Makes a store sound: a damaged file is set aside and its readable records go into a new one.

    Returns:
        The state afterwards, with outdated records counted.

    Raises:
        StoreError: there is no such file, or it cannot be written.
    """
    before = inspect_store(path)
    with ProfileStore(path) as store:  # opening sets most damaged files aside
        if not before.sound and not inspect_store(path).sound:
            store.file.set_aside(sqlite3.DatabaseError((*before.damage, *before.unreadable)[0]))
    return inspect_store(path, count_outdated=True)


def export_records(store: ProfileStore, path: Path) -> int:
    """Writes all records to a text file: a header line, then one JSON object for each record; gzip if named ``.gz``.

    Returns:
        The number of records.

    Raises:
        StoreError: the file cannot be written.
    """
    rows = list(store.rows())
    devices = {json.dumps(row.fingerprint, sort_keys=True): row.fingerprint for row in rows if row.fingerprint}
    numbers = {text: number for number, text in enumerate(devices)}
    header = {"format": _FORMAT, "schema": SCHEMA_VERSION, "records": len(rows), "devices": list(devices.values())}
    try:
        with replacing(path) as temporary, _written(temporary, path.suffix == ".gz") as stream:
            stream.write(json.dumps(header) + "\n")
            for row in rows:
                line = {
                    "key": dict(zip(KEY_FIELDS, row.key.values, strict=True)),
                    "result": row.result,
                    "created": row.created,
                    "attempts": row.attempts,
                    "device": numbers.get(json.dumps(row.fingerprint, sort_keys=True)),
                }
                stream.write(json.dumps(line) + "\n")
    except BuildError as error:
        raise StoreError(str(error).removesuffix(" with -o")) from error
    return len(rows)


def _written(path: Path, compressed: bool) -> IO[str]:
    raw = gzip.open(path, "wb", compresslevel=6) if compressed else path.open("wb")
    return io.TextIOWrapper(raw, "utf-8")


def import_records(store: ProfileStore, path: Path) -> Transfer:
    """Takes over the records of an exported file; a broken line is left out and named, a broken header refused.

    Raises:
        StoreError: the file cannot be read, is no export, or a newer version of this package wrote it.
    """
    problems: list[str] = []
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else path.open("rb") as stream:
            rows = _read(stream, path, problems)  # type: ignore[arg-type]
            return Transfer(*store.absorb(rows), tuple(problems))
    except OSError as error:
        raise StoreError(
            f"{str(path)!r} cannot be read: {error}; check its name, and get it again if damaged"
        ) from error


def _read(stream: IO[bytes], path: Path, problems: list[str]) -> Iterator[Row]:
    """The records of an exported file; what is wrong is added to `problems`."""
    header = _header(stream, path)
    count, number = 0, 1
    try:
        for number, line in enumerate(iter(lambda: stream.readline(_LINE_BYTES), b""), 2):
            try:
                yield _parse(line, header["devices"])
            except (ProfileError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
                problems.append(f"line {number}: {type(error).__name__}: {error}"[:300])
            count += 1
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problems.append(f"line {number + 1}: the compressed file is damaged or cut off: {error}")
    if count < header["records"]:
        problems.append(
            f"line {number + 1}: the file ends, but {header['records'] - count} more record(s) should follow"
        )


def _header(stream: IO[bytes], path: Path) -> Mapping[str, Any]:
    try:
        header = json.loads(stream.readline(_LINE_BYTES))
        devices = header["devices"]
        if header["format"] != _FORMAT or not isinstance(header["records"], int) or not isinstance(devices, list):
            raise ValueError("another format")
        if not all(device is None or isinstance(device, dict) for device in devices):
            raise ValueError("malformed devices")
        schema = int(header["schema"])
    except (ValueError, TypeError, KeyError, EOFError, zlib.error, gzip.BadGzipFile, RecursionError) as error:
        raise StoreError(
            f"{str(path)!r}, line 1: this is no export of a profile store ({error!r}); make one with "
            "`softneuro-tvm db export`, or use `softneuro-tvm db merge` for SQLite files"
        ) from error
    if schema > SCHEMA_VERSION:
        raise StoreError(f"{str(path)!r} was exported by a newer softneuro_tvm (schema {schema}); upgrade to import it")
    return dict(header)


def _parse(line: bytes, devices: Sequence[Mapping[str, Any]]) -> Row:
    """A line's record, checked in every part.

    Raises:
        ProfileError: it is no record.
        ValueError: it is no JSON, or a part has an impossible value.
        TypeError: a part has another type.
        KeyError: a part is missing.
    """
    data = json.loads(line)
    fields, device = data["key"], data["device"]
    if set(fields) != set(KEY_FIELDS):
        raise ValueError(f"the key has the parts {sorted(fields)}")
    for name, value in fields.items():
        if type(value) is not (int if name == "threads" else str):
            raise ValueError(f"the key's {name} is {value!r}")
    json.dumps(fields, ensure_ascii=False).encode()  # refuses half characters, which SQLite cannot hold
    if not 1 <= fields["threads"] < _LARGEST:
        raise ValueError(f"the key's threads are {fields['threads']!r}")
    key = Key(**fields)
    key.kind  # noqa: B018  raises if the workload is none
    if not isinstance(data["created"], str) or not _TIME.fullmatch(data["created"]):
        raise ValueError(f"the time is {data['created']!r}")
    if type(data["attempts"]) is not int or not 1 <= data["attempts"] < _LARGEST:
        raise ValueError(f"attempts are {data['attempts']!r}")
    if device is not None and (type(device) is not int or not 0 <= device < len(devices)):
        raise ValueError(f"device {device!r} is not in the header")
    fingerprint = None if device is None else devices[device]
    row = Row(key, dict(data["result"]), data["created"], data["attempts"], fingerprint)
    found = row.measurement
    if not all(math.isfinite(sample) and sample >= 0 for sample in found.samples_s) or math.isnan(found.error):
        raise ValueError("the samples or the error are impossible")
    if found.ok and not found.samples_s:
        raise ValueError("it is ok and has no samples")
    return row


def merge_stores(store: ProfileStore, others: Iterable[str | os.PathLike[str]]) -> Transfer:
    """Takes over the records of other stores of any version, damaged ones too; those files are only read.

    Raises:
        StoreError: a file does not exist or cannot be read, or a newer version of this package wrote it.
    """
    new = changed = same = 0
    problems: list[str] = []
    for other in map(Path, others):
        salvage = Salvage(other)
        try:
            rows = salvage.rows()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"profile store {other} cannot be read: {error}; is it locked or not readable?") from error
        counts = store.absorb(rows)
        new, changed, same = new + counts[0], changed + counts[1], same + counts[2]
        problems += [f"{other}: {problem}" for problem in salvage.problems]
    return Transfer(new, changed, same, tuple(problems))


def prune(store: ProfileStore, *, outdated: bool = False, older_than_days: float | None = None) -> int:
    """Removes the records to which every given condition applies, and gives the space back.

    Args:
        store: The store.
        outdated: The routine's source or TVM changed since, or the routine is gone.
        older_than_days: Measured longer ago.

    Returns:
        How many there were.

    Raises:
        StoreError: no condition was given, or the file cannot be written.
    """
    if not outdated and older_than_days is None:
        raise StoreError("pruning needs to know what: outdated records, those older than some days, or both")
    before = now(older_than_days or 0.0)
    rows = (row for row in store.rows() if older_than_days is None or row.created < before)
    return store.delete([row.key for row in rows if not outdated or not row.current])
