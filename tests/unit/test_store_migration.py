"""A store that version 1 wrote is brought up to date in place."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from softneuro_tvm.errors import StoreError
from softneuro_tvm.profiler import schema
from softneuro_tvm.profiler.exchange import inspect_store, merge_stores
from softneuro_tvm.profiler.keys import KEY_FIELDS, Key
from softneuro_tvm.profiler.salvage import Salvage
from softneuro_tvm.profiler.store import ProfileStore

SQL = (Path(__file__).parent / "store_v1.sql").read_text()
"""Records of a real store of version 1: eleven of version 1's own measuring, and a crash."""


def version_1(path: Path, copies: int = 1) -> dict[Key, tuple[str, str]]:
    """Writes a store of version 1; returns result and time of each key."""
    path.parent.mkdir(exist_ok=True)
    with sqlite3.connect(path) as connection:
        connection.executescript(SQL)
        columns = ", ".join((*KEY_FIELDS, "result", "created"))
        rows = connection.execute(f"SELECT {columns} FROM measurement").fetchall()
        for copy in range(1, copies):
            for *fields, result, created in rows:
                key = Key(*[f"{fields[0]}{' ' * copy}", *fields[1:]])
                values = (key.digest, *key.values, result, created)
                connection.execute(f"INSERT INTO measurement VALUES ({','.join('?' * len(values))})", values)
        found = connection.execute(f"SELECT {columns} FROM measurement").fetchall()
    connection.close()
    return {Key(*fields): (result, created) for *fields, result, created in found}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profile.sqlite"


def test_every_record_is_kept(path: Path) -> None:
    expected = version_1(path)
    assert len(expected) == 12
    with ProfileStore(path) as store:
        known = store.get_many(expected)
        assert {key: measurement.to_json() for key, measurement in known.items()} == {
            key: json.loads(result) for key, (result, _) in expected.items()
        }
        assert {row.key: row.created for row in store.rows()} == {key: time for key, (_, time) in expected.items()}
        assert all(row.attempts == 1 and row.fingerprint is None for row in store.rows())
        assert sum(not measurement.ok for measurement in known.values()) == 1
    assert inspect_store(path).schema == schema.SCHEMA_VERSION
    assert inspect_store(path).sound


def test_reading_and_merging_a_store_of_version_1_leaves_it_as_it_is(path: Path, tmp_path: Path) -> None:
    expected = version_1(path)
    before = path.read_bytes()
    assert inspect_store(path).schema == 1
    assert {row.key for row in Salvage(path).rows()} == expected.keys()
    with ProfileStore(tmp_path / "new.sqlite") as store:
        assert merge_stores(store, [path]).new == 12
        assert merge_stores(store, [path]).same == 12
        assert store.get_many(expected).keys() == expected.keys()
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.sqlite", "new.sqlite.lock", "profile.sqlite"]


def test_a_kill_in_the_midst_leaves_the_old_or_the_new_store(tmp_path: Path) -> None:
    generator = random.Random(2)
    whole = tmp_path / "whole.sqlite"
    expected = version_1(whole, copies=30)
    data, versions = whole.read_bytes(), set()
    for attempt in range(25):
        path = tmp_path / str(attempt) / "profile.sqlite"
        path.parent.mkdir()
        path.write_bytes(data)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write_end, b".")
            ProfileStore(path)
            os._exit(0)
        os.read(read_end, 1)
        time.sleep(generator.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read_end)
        os.close(write_end)
        versions.add(inspect_store(path).schema)
        with ProfileStore(path) as store:
            assert {row.key: json.dumps(row.result) for row in store.rows()} == {
                key: result for key, (result, _) in expected.items()
            }
        assert not list(path.parent.glob("*.corrupt-*"))
    assert versions <= {1, 2}


def test_an_error_in_the_midst_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = version_1(path)

    def fails(digest: str, result: str) -> int:
        raise ValueError("stop")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="cannot be opened"):
        patch.setattr(schema, "checksum", fails)
        ProfileStore(path)
    assert inspect_store(path).schema == 1
    with ProfileStore(path) as store:
        assert store.get_many(expected).keys() == expected.keys()
