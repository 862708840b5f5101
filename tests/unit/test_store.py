from __future__ import annotations

import importlib
import linecache
import math
import os
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from softneuro_tvm import registry
from softneuro_tvm.device import Device
from softneuro_tvm.errors import ProfileError, StoreError
from softneuro_tvm.formats import Format, TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers.dense import Dense, DenseAttributes
from softneuro_tvm.measurement import Measurement, Status
from softneuro_tvm.profiler.keys import Key, measurement_key, network_key, residency_of, weight_copies
from softneuro_tvm.profiler.rows import Row, now
from softneuro_tvm.profiler.schema import ENVIRONMENT_VARIABLE
from softneuro_tvm.profiler.store import MAX_ATTEMPTS, ProfileStore, default_path
from softneuro_tvm.routine import Candidate, Variant

KEY = Key("{}", "conv2d/direct", "tile=4", "in -> out", "abc", '{"kind": "llvm"}', "part", 2, "0.27", "dram")
FOUND = Measurement("ok", (1e-6, 3e-6, 2e-6), 1.5e-7)


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
    long = replace(FOUND, message="x" * 200)
    for number in (1, 2):
        with ProfileStore(path) as store:
            for i in range(100):
                store.put(key(i), long)
        damage(path)
        damaged = path.read_bytes()
        with ProfileStore(path) as store:
            assert store.get(KEY) in (None, long)
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
        store.file._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(StoreError, match="writable"):
            store.put(KEY, FOUND)


def test_a_full_disk_is_explained(path: Path) -> None:
    with ProfileStore(path) as store:
        store.file._connection.execute("PRAGMA max_page_count = 4")
        with pytest.raises(StoreError, match="free some space"):
            for number in range(100):
                store.put(key(number), replace(FOUND, message="x" * 500))
        assert store.get(key(0)) is not None


def test_a_newer_schema_is_refused_and_kept(path: Path) -> None:
    with ProfileStore(path) as store:
        store.put(KEY, FOUND)
        store.file._connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="newer"):
        ProfileStore(path)
    assert not list(path.parent.glob("*.corrupt-*"))


def test_the_environment_names_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(path))
    assert default_path() == path
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    assert default_path().parts[-2:] == ("softneuro_tvm", "profile.sqlite")


def row(measurement: Measurement, days_ago: float = 0.0, attempts: int = 1) -> Row:
    return Row(KEY, measurement.to_json(), now(days_ago), attempts)


@pytest.mark.parametrize(
    ("status", "days_ago", "attempts", "known", "known_unless_retried"),
    [
        ("ok", 900, 9, True, True),
        ("wrong", 900, 1, True, True),
        ("error", 900, 1, True, False),
        ("crash", 6.9, 1, True, False),
        ("crash", 7.1, 1, False, False),
        ("timeout", 7.1, 2, False, False),
        ("timeout", 7.1, MAX_ATTEMPTS, True, False),
    ],
)
def test_failures_are_retried(
    path: Path, status: Status, days_ago: float, attempts: int, known: bool, known_unless_retried: bool
) -> None:
    with ProfileStore(path) as store:
        store.absorb([row(Measurement(status, (1.0,) if status == "ok" else ()), days_ago, attempts)])
        assert (store.get(KEY) is not None) == known
        assert bool(store.get_many([KEY], retry_failed=True)) == known_unless_retried


def test_attempts_are_counted_and_the_last_time_counts(path: Path) -> None:
    with ProfileStore(path) as store:
        store.absorb([row(Measurement("crash"), 30)])
        assert store.get(KEY) is None
        store.put(KEY, Measurement("crash"))
        assert store.get(KEY) == Measurement("crash")
        store.put(KEY, FOUND)
        assert [found.attempts for found in store.rows()] == [3]


def test_samples_are_added_with_their_sessions(path: Path) -> None:
    with ProfileStore(path) as store:
        assert store.sessions(KEY) == ()
        assert store.add_samples(KEY, replace(FOUND, error=2e-7)) == replace(FOUND, error=2e-7)
        first = store.session
    with ProfileStore(path) as store:
        joined = store.add_samples(KEY, replace(FOUND, samples_s=(7e-6,)))
        assert joined == store.get(KEY) == Measurement("ok", (*FOUND.samples_s, 7e-6), 2e-7, "", (3, 1))
        assert {s.taken["session"]: s.samples_s for s in store.sessions(KEY)} == {
            first: FOUND.samples_s,
            store.session: (7e-6,),
        }
        assert store.add_samples(KEY, Measurement("crash")) == store.get(KEY) == Measurement("crash")
        assert store.add_samples(KEY, FOUND) == store.get(KEY) == FOUND


def test_what_a_measurement_carries_besides_is_kept(path: Path) -> None:
    class Throttled(Measurement):
        def to_json(self) -> dict[str, Any]:
            return {**super().to_json(), "throttle": self.median_s * 1e6}

    with ProfileStore(path) as store:
        store.put(KEY, Throttled("ok", (1e-6,), 0.0))
        store.add_samples(KEY, Throttled("ok", (3e-6,), 0.0))
        assert [session.taken["throttle"] for session in store.sessions(KEY)] == pytest.approx([1.0, 3.0])
        assert next(store.rows()).result["throttle"] == pytest.approx(3.0)


def test_records_know_their_device_which_is_stored_once(path: Path) -> None:
    here, there = {"part": "a", "digest": "1"}, {"part": "b", "digest": "2"}
    with ProfileStore(path, fingerprint=here) as one, ProfileStore(path, fingerprint=there) as two:
        for number in range(4):
            (one if number < 3 else two).put(key(number), FOUND)
        devices = {row.key: row.fingerprint for row in one.rows()}
        assert devices == {**dict.fromkeys(map(key, range(3)), here), key(3): there}
        two.put(key(0), FOUND)
        stored = two.file.run("read", lambda c: c.execute("SELECT digest FROM device ORDER BY 1").fetchall())
        assert stored == [("1",), ("2",)]


ROUTINE = """
from softneuro_tvm.routine import Routine

class Changing(Routine):
    name = "dense/{name}"
    kind = "dense"
    source = "nowhere"
    def variants(self, workload, device): return ()
    def emit(self, *arguments): return None
    def error_bound(self, workload, variant): return {bound}
"""


def dense() -> tuple[Workload, Variant]:
    weights = {"weight": TensorType((16, 32)), "bias": TensorType((16,))}
    workload = Dense().workload(DenseAttributes(), [TensorType((4, 32))], weights)
    return workload, Variant((), (Format("NC"),), (Format("NC"),))


def test_records_of_a_routine_that_changed_are_ignored_and_others_kept(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    workload, variant = dense()

    def keys_now(bound: float) -> dict[str, Key]:
        found = {}
        for name, error in (("one", 0.5), ("two", bound)):
            (tmp_path / f"changing_{name}.py").write_text(ROUTINE.format(name=name, bound=error))
            importlib.invalidate_caches()
            linecache.clearcache()
            module = importlib.reload(importlib.import_module(f"changing_{name}"))
            candidate = Candidate(workload, module.Changing(), variant)
            found[name] = measurement_key(candidate, Device("test", {"kind": "llvm"}), "l2")
        return found

    before, after = keys_now(0.5), keys_now(0.25)
    assert before["one"] == after["one"]
    with ProfileStore(path) as store:
        for measured in before.values():
            store.put(measured, FOUND)
        assert store.get_many(after.values()) == {before["one"]: FOUND}
        assert store.get_many(keys_now(0.5).values()) == dict.fromkeys(before.values(), FOUND)


def test_records_tell_whether_they_are_current(path: Path) -> None:
    workload, variant = dense()
    routine = next(iter(registry.routines_of("dense")))
    current = measurement_key(Candidate(workload, routine, variant), Device("test", {}, "part", 2), "l2")
    others = [replace(current, source="0"), replace(current, tvm="0.1"), replace(current, routine="dense/gone")]
    elsewhere = [replace(current, part="other"), replace(current, threads=1), replace(current, workload="{}")]
    network = network_key("graph", "plan", Device("test", {}, "part", 2))
    with ProfileStore(path) as store:
        for each in (current, *others, *elsewhere, network):
            store.put(each, FOUND)
        found = {row.key: row.current for row in store.rows()}
    assert found == dict.fromkeys([current, *elsewhere, network], True) | dict.fromkeys(others, False)


def test_records_near_are_of_the_same_routines_on_the_same_processor(path: Path) -> None:
    wanted = replace(KEY, workload="[1]")
    near = [replace(KEY, threads=1), replace(KEY, source="0"), replace(KEY, tvm="0.1"), replace(KEY, workload="[2]")]
    far = [replace(KEY, part="other"), replace(KEY, target="[]"), replace(KEY, routine="conv2d/other")]
    with ProfileStore(path) as store:
        for each in (wanted, *near, *far):
            store.put(each, FOUND)
        assert dict(store.records_near([wanted], 10)) == dict.fromkeys(near, FOUND)
        few = [key for key, _ in store.records_near([wanted], 3)]
        assert few == [key for key, _ in store.records_near([wanted], 3)]
        assert set(few) == set(near[1:])  # same number of threads
        assert store.records_near([], 10) == []
        store.file.run("written", lambda c: c.execute("UPDATE measurement SET params = 'x' WHERE threads = 1"))
        assert set(dict(store.records_near([wanted], 10))) == set(near[1:])  # a damaged key


def test_records_near_are_so_many_of_each_routine(path: Path) -> None:
    one, two = replace(KEY, routine="conv2d/one"), replace(KEY, routine="conv2d/two")
    with ProfileStore(path) as store:
        for number in range(6):
            store.put(replace(one, workload=f"[{number}]"), FOUND)
            store.put(replace(two, workload=f"[{number}]"), FOUND)
        found = [key.routine for key, _ in store.records_near([one, two], 4)]
    assert sorted(found) == [one.routine] * 4 + [two.routine] * 4


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
