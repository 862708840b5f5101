from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from softneuro_tvm.device import Device
from softneuro_tvm.errors import ProfileError, StoreError
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler.keys import Key, residency_of, weight_copies
from softneuro_tvm.profiler.store import ENVIRONMENT_VARIABLE, ProfileStore, default_path

KEY = Key("{}", "conv2d/direct", "tile=4", "in -> out", "abc", '{"kind": "llvm"}', "part", 2, "0.27", "dram")
FOUND = Measurement("ok", (1e-6, 3e-6, 2e-6), 1.5e-7)

WRITER = """
import sys
from dataclasses import replace
from softneuro_tvm.profiler.keys import Key
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler.store import ProfileStore

path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
key = Key("{}", name, "", "in -> out", "abc", "{}", "part", 2, "0.27", "dram")
with ProfileStore(path) as store:
    for number in range(count):
        store.put(replace(key, params=str(number)), Measurement("ok", (1e-6,) * 25, 0.0, "x" * 500))
        print(number, flush=True)
"""


def key(number: int) -> Key:
    return replace(KEY, params=f"tile={number}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "profile.sqlite"


def test_what_is_put_is_found_after_reopening(path: Path) -> None:
    wrong = Measurement("wrong", (), math.inf, "holds NaN")
    with ProfileStore(path) as store:
        assert store.get(KEY) is None
        store.put(KEY, FOUND)
        store.put(key(1), wrong)
    with ProfileStore(path) as store:
        assert store.get(KEY) == FOUND
        assert store.get_many([KEY, key(1), key(2)]) == {KEY: FOUND, key(1): wrong}
        assert dict(store.records()) == {KEY: FOUND, key(1): wrong}


def test_a_second_result_replaces_the_first(path: Path) -> None:
    with ProfileStore(path) as store:
        store.put(KEY, FOUND)
        store.put(KEY, replace(FOUND, samples_s=(5e-6,)))
        assert store.get(KEY) == replace(FOUND, samples_s=(5e-6,))
        assert len(list(store.records())) == 1


def test_every_part_of_the_key_counts(path: Path) -> None:
    with ProfileStore(path) as store:
        store.put(KEY, FOUND)
        for field in ("workload", "routine", "params", "formats", "source", "target", "part", "tvm", "residency"):
            changed: dict[str, Any] = {field: "other"}
            assert store.get(replace(KEY, **changed)) is None, field
        assert store.get(replace(KEY, threads=1)) is None


def test_many_keys_are_found(path: Path) -> None:
    with ProfileStore(path) as store:
        for number in range(0, 1300, 2):
            store.put(key(number), FOUND)
        assert store.get_many(map(key, range(1300))).keys() == {key(number) for number in range(0, 1300, 2)}


def corrupt_whole(path: Path) -> None:
    path.write_bytes(b"this is no database " * 400)


def corrupt_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 100])


@pytest.mark.parametrize("damage", [corrupt_whole, corrupt_middle, truncate])
def test_a_damaged_file_is_set_aside(path: Path, damage: object, caplog: pytest.LogCaptureFixture) -> None:
    assert callable(damage)
    for number in (1, 2):
        with ProfileStore(path) as store:
            for i in range(100):
                store.put(key(i), replace(FOUND, message="x" * 200))
        damage(path)
        damaged = path.read_bytes()
        with ProfileStore(path) as store:
            assert store.get(KEY) is None
            store.put(KEY, FOUND)
            assert store.get(KEY) == FOUND
        assert path.with_name(f"profile.sqlite.corrupt-{number}").read_bytes() == damaged
        assert f"corrupt-{number}" in caplog.text


def test_an_unreadable_row_counts_as_unknown(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ProfileStore(path) as store:
        store.put(KEY, FOUND)
        store.put(key(1), FOUND)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE measurement SET result = '{' WHERE digest = ?", (KEY.digest,))
    with ProfileStore(path) as store:
        assert store.get_many([KEY, key(1)]) == {key(1): FOUND}
        assert KEY.digest in caplog.text
        store.put(KEY, FOUND)
        assert store.get(KEY) == FOUND


def test_a_killed_writer_loses_nothing_that_it_reported(path: Path) -> None:
    for attempt in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), f"writer{attempt}", "1000000"], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "0\n"
        time.sleep(0.013 * attempt)
        writer.send_signal(signal.SIGKILL)
        written = len(writer.stdout.read().split("\n"))  # the complete lines after the first, and perhaps a part of one
        writer.wait()
        writer.stdout.close()
        with ProfileStore(path) as store:
            kept = sum(record.routine == f"writer{attempt}" for record, _ in store.records())
        assert kept >= written
    assert not list(path.parent.glob("*.corrupt-*"))


def test_two_processes_write_at_once(path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, "300"], stdout=subprocess.DEVNULL)
        for name in ("one", "two")
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    with ProfileStore(path) as store:
        assert len(list(store.records())) == 600


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=ENVIRONMENT_VARIABLE):
        ProfileStore(tmp_path / "file" / "profile.sqlite")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_folder_is_explained(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o500)
    with pytest.raises(StoreError, match="writable"):
        ProfileStore(path)


def test_a_read_only_database_is_explained(path: Path) -> None:
    with ProfileStore(path) as store:
        store._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(StoreError, match="writable"):
            store.put(KEY, FOUND)


def test_a_full_disk_is_explained(path: Path) -> None:
    with ProfileStore(path) as store:
        store._connection.execute("PRAGMA max_page_count = 4")
        with pytest.raises(StoreError, match="free some space"):
            for number in range(100):
                store.put(key(number), replace(FOUND, message="x" * 500))
        assert store.get(key(0)) is not None


def test_a_newer_schema_is_refused_and_kept(path: Path) -> None:
    with ProfileStore(path) as store:
        store.put(KEY, FOUND)
        store._connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="newer"):
        ProfileStore(path)
    assert not list(path.parent.glob("*.corrupt-*"))


def test_the_environment_names_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(path))
    assert default_path() == path
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    assert default_path().parts[-2:] == ("softneuro_tvm", "profile.sqlite")


def test_median_and_spread() -> None:
    assert Measurement("ok", (4.0, 1.0, 3.0, 2.0, 5.0)).median_s == 3.0
    assert Measurement("ok", (4.0, 1.0, 3.0, 2.0, 5.0)).spread == pytest.approx(2 / 3)
    assert Measurement("ok", (4.0,)).spread == 0
    assert Measurement("crash").median_s == math.inf


@pytest.mark.parametrize("data", [{}, {**FOUND.to_json(), "status": "fine"}, {**FOUND.to_json(), "samples_s": None}])
def test_what_is_no_measurement_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ProfileError, match="measure again"):
        Measurement.from_json(data)


def test_residency_follows_the_caches() -> None:
    device = Device("test", {"kind": "llvm"}, l2_bytes=1 << 20, l3_bytes=32 << 20)
    assert [residency_of(size << 10, device) for size in (512, 513, 16 << 10, (16 << 10) + 1)] == [
        *("l2", "l3", "l3", "dram")
    ]


@pytest.mark.parametrize("size", [1, 1000, 1 << 20, 3 << 20, 40 << 20, 64 << 20, 400 << 20])
def test_copies_of_weights_overflow_the_caches_and_spare_the_memory(size: int) -> None:
    device = Device("test", {"kind": "llvm"}, l2_bytes=1 << 20, l3_bytes=32 << 20)
    assert weight_copies(size, "l2", device) == 1
    dram = weight_copies(size, "dram", device)
    assert dram == 64 or dram * size >= 64 << 20
    assert dram * size <= max(size, 256 << 20)
    if size < 4 << 20:
        l3 = weight_copies(size, "l3", device)
        assert l3 == 64 or 2 << 20 < l3 * size <= 16 << 20


def test_layers_without_weights_need_no_copies() -> None:
    assert weight_copies(0, "dram", Device("test", {"kind": "llvm"})) == 1
