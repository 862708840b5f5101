"""Export, import, merge, check and prune."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from softneuro_tvm.errors import StoreError
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler import rows
from softneuro_tvm.profiler.exchange import (
    export_records,
    import_records,
    inspect_store,
    merge_stores,
    prune,
    repair_store,
)
from softneuro_tvm.profiler.keys import Key
from softneuro_tvm.profiler.rows import Row
from softneuro_tvm.profiler.store import ProfileStore

KEY = Key('{"kind":"conv2d"}', "conv2d/direct", "tile=4", "in -> out", "abc", "{}", "part", 2, "0.27", "dram")
HERE = {"part": "a", "threads": 2, "digest": "0123456789ab"}
THERE = {"part": "b", "threads": 2, "digest": "ba9876543210"}


def key(number: int) -> Key:
    return replace(KEY, params=f"tile={number}")


def ok(*samples_s: float) -> Measurement:
    return Measurement("ok", samples_s or (1e-6, 2e-6), 1e-7)


def row(number: int, status: str = "ok", created: str = "2026-01-01 00:00:00", **also: Any) -> Row:
    samples = also.pop("samples", [1e-6, 2e-6] if status == "ok" else [])
    result = {"status": status, "samples_s": samples, "error": 0.0, "message": "", **also.pop("result", {})}
    return Row(key(number), result, created, **also)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProfileStore]:
    with ProfileStore(tmp_path / "one.sqlite", fingerprint=HERE) as opened:
        yield opened


@pytest.fixture
def other(tmp_path: Path) -> Iterator[ProfileStore]:
    with ProfileStore(tmp_path / "two.sqlite", fingerprint=THERE) as opened:
        yield opened


def everything(store: ProfileStore) -> list[Row]:
    return list(store.rows())


@pytest.mark.parametrize("name", ["records.jsonl", "records.jsonl.gz"])
def test_what_is_exported_is_imported_unchanged(
    store: ProfileStore, other: ProfileStore, tmp_path: Path, name: str
) -> None:
    store.put(key(1), ok())
    store.add_samples(key(1), ok(3e-6))
    store.put(key(2), Measurement("crash", message="signal 11, \N{GREEK SMALL LETTER MU}"))
    store.absorb([row(3, fingerprint=THERE, attempts=2, result={"throttle": 0.93, "unheard_of": [1, {"of": None}]})])
    assert export_records(store, tmp_path / name) == 3
    done = import_records(other, tmp_path / name)
    assert (done.new, done.changed, done.same, done.problems) == (3, 0, 0, ())
    assert everything(other) == everything(store)
    assert import_records(other, tmp_path / name).same == 3
    assert (tmp_path / name).read_bytes()[:2] == (b"\x1f\x8b" if name.endswith("gz") else b'{"')


def broken(change: dict[str, Any], **part: Any) -> str:
    line = {"key": {**vars_of(KEY), **part}, "result": row(1).result, "created": "2026-01-01 00:00:00"}
    return json.dumps({**line, "attempts": 1, "device": None, **change})


def vars_of(key: Key) -> dict[str, Any]:
    return {name: getattr(key, name) for name in type(key).__dataclass_fields__}


@pytest.mark.parametrize(
    "line",
    [
        *(
            "",
            "{",
            "[]",
            "null",
            "\x00",
            '{"key": 3}',
            "[" * 100_000,
            '{"key": "\ud800"}'.encode("utf-8", "replace").decode(),
        ),
        *(broken({}, threads="2"), broken({}, threads=0), broken({}, threads=1 << 70), broken({}, workload="x")),
        *(broken({}, routine=None), broken({}, extra="x"), broken({}, part="\ud800"), broken({"created": "today"})),
        *(broken({"attempts": 0}), broken({"attempts": True}), broken({"device": 7}), broken({"device": -1})),
        *(broken({"result": None}), broken({"result": {}}), broken({"result": row(1, "fine").result})),
        *(broken({"result": row(1, samples=s).result}) for s in ([], [float("nan")], [-1.0], [10**400], "x", None)),
        broken({"result": {**row(1).result, "error": float("nan")}}),
    ],
)
def test_a_broken_line_is_named_and_left_out(store: ProfileStore, tmp_path: Path, line: str) -> None:
    store.put(key(1), ok())
    store.put(key(2), ok())
    export_records(store, tmp_path / "records.jsonl")
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    lines.insert(2, line)
    header = {**json.loads(lines[0]), "records": 3}
    (tmp_path / "records.jsonl").write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
    with ProfileStore(tmp_path / "new.sqlite") as new:
        done = import_records(new, tmp_path / "records.jsonl")
        assert done.new == 2
        assert everything(new) == everything(store)
    assert len(done.problems) == 1
    assert done.problems[0].startswith("line 3: ")


def test_a_file_that_was_cut_off_is_imported_as_far_as_it_goes(store: ProfileStore, tmp_path: Path) -> None:
    for number in range(60):
        store.put(key(number), ok(*(random.Random(number).random() for _ in range(25))))
    generator = random.Random(1)
    for name in ("records.jsonl", "records.jsonl.gz"):
        path = tmp_path / name
        export_records(store, path)
        data = path.read_bytes()
        for _ in range(12):
            path.write_bytes(data[: generator.randrange(len(data) // 4, len(data) * 9 // 10)])
            with ProfileStore(tmp_path / f"{os.urandom(4).hex()}.sqlite") as new:
                done = import_records(new, path)
                known = new.get_many(map(key, range(60)))
            assert known.items() <= store.get_many(map(key, range(60))).items()
            assert len(known) == done.new < 60
            assert "should follow" in done.problems[-1]
    path.write_bytes(data[:-1])  # all records are there, not the whole checksum
    with ProfileStore(tmp_path / "all.sqlite") as new:
        done = import_records(new, path)
    assert done.new == 60 and "cut off" in done.problems[-1]


@pytest.mark.parametrize("text", ["", "{}", "no export", '{"format": "softneuro_tvm profile"}', "SQLite format 3\0"])
def test_what_is_no_export_is_refused(store: ProfileStore, tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(StoreError, match=r"line 1: this is no export.*db export"):
        import_records(store, tmp_path / "x")


def test_exports_of_newer_versions_and_absent_files_are_refused(store: ProfileStore, tmp_path: Path) -> None:
    export_records(store, tmp_path / "x")
    header = json.loads((tmp_path / "x").read_text())
    (tmp_path / "x").write_text(json.dumps({**header, "schema": 3}))
    with pytest.raises(StoreError, match="newer softneuro_tvm"):
        import_records(store, tmp_path / "x")
    with pytest.raises(StoreError, match="cannot be read"):
        import_records(store, tmp_path / "absent")
    with pytest.raises(StoreError, match="choose another folder"):
        export_records(store, tmp_path / "absent" / "x")


def test_samples_of_two_stores_are_joined_once(store: ProfileStore, tmp_path: Path) -> None:
    with ProfileStore(tmp_path / "two.sqlite", fingerprint=HERE) as other:
        store.put(KEY, ok(1.0, 2.0))
        other.put(KEY, ok(3.0))
        assert merge_stores(store, [other.path]).changed == 1
        assert merge_stores(store, [other.path]).same == 1
        assert merge_stores(other, [store.path]).changed == 1
        assert merge_stores(store, [other.path]).same == 1
        for one in (store, other):
            found = one.get(KEY)
            assert found is not None
            assert sorted(found.samples_s) == [1.0, 2.0, 3.0]
            assert sorted(found.sessions) == [1, 2]
            assert {s.taken["session"]: s.samples_s for s in one.sessions(KEY)} == {
                store.session: (1.0, 2.0),
                other.session: (3.0,),
            }


OLD, NEW = "2026-01-01 00:00:00", "2026-02-01 00:00:00"


@pytest.mark.parametrize(
    ("one", "two", "status", "samples"),
    [
        (row(1, "ok", NEW), row(1, "crash", OLD), "ok", 2),
        (row(1, "ok", OLD), row(1, "crash", NEW), "ok", 2),
        (row(1, "wrong", OLD), row(1, "timeout", NEW), "wrong", 0),
        (row(1, "ok", OLD), row(1, "wrong", NEW), "wrong", 0),
        (row(1, "ok", NEW), row(1, "wrong", OLD), "ok", 2),
        (row(1, "error", NEW), row(1, "timeout", OLD), "error", 0),
        (row(1, created=OLD, fingerprint=HERE), row(1, created=NEW, fingerprint=THERE, samples=[1.0]), "ok", 1),
        (row(1, created=OLD, fingerprint=HERE), row(1, created=NEW, fingerprint=HERE, samples=[1.0]), "ok", 3),
        (row(1, created=OLD), row(1, created=NEW, fingerprint=HERE, samples=[1.0]), "ok", 3),
    ],
)
def test_what_two_stores_know_together(one: Row, two: Row, status: str, samples: int) -> None:
    for first, second in ((one, two), (two, one)):
        found = rows.merged(first, second)
        assert (found.measurement.status, len(found.measurement.samples_s)) == (status, samples)
        assert rows.merged(found, second).result == found.result == rows.merged(first, found).result


def test_merging_takes_what_a_damaged_store_still_has(store: ProfileStore, tmp_path: Path) -> None:
    with ProfileStore(tmp_path / "two.sqlite") as other:
        other.absorb(row(number) for number in range(200))
    data = bytearray((tmp_path / "two.sqlite").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = os.urandom(4096)
    (tmp_path / "two.sqlite").write_bytes(data)
    done = merge_stores(store, [tmp_path / "two.sqlite"])
    assert 150 < done.new < 200
    assert done.problems
    assert (tmp_path / "two.sqlite").read_bytes() == data
    assert not list(tmp_path.glob("*.corrupt-*"))
    with pytest.raises(StoreError, match="there is no profile store"):
        merge_stores(store, [tmp_path / "absent.sqlite"])


def test_pruning(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "is_current", lambda key: key.source == "now")
    old, new = [row(number, created="2020-01-01 00:00:00") for number in (1, 2)], [row(3, created=rows.now())]
    current = replace(old[1], key=replace(old[1].key, source="now"))
    store.absorb([old[0], current, *new])
    with pytest.raises(StoreError, match="needs to know what"):
        prune(store)
    assert prune(store, older_than_days=10_000) == 0
    assert prune(store, outdated=True, older_than_days=30) == 1
    assert {r.key for r in store.rows()} == {current.key, key(3)}
    assert prune(store, older_than_days=30) == 1
    assert prune(store, outdated=True) == 1
    assert everything(store) == []


def test_pruning_gives_the_space_back(store: ProfileStore) -> None:
    store.absorb(row(number, created="2020-01-01 00:00:00", samples=[1e-6] * 100) for number in range(500))
    before = inspect_store(store.path).size_bytes
    assert prune(store, older_than_days=1) == 500
    store.close()
    assert inspect_store(store.path).size_bytes < before / 10


def test_inspection_tells_what_is_there(store: ProfileStore) -> None:
    store.put(key(1), ok())
    store.put(key(2), Measurement("crash"))
    store.absorb([row(3, fingerprint=THERE, created="2020-01-01 00:00:00"), row(4)])
    health = inspect_store(store.path)
    assert (health.sound, health.records, health.statuses) == (True, 4, {"crash": 1, "ok": 3})
    assert health.devices[0] == (HERE, 2)
    assert (THERE, 1) in health.devices
    assert (None, 1) in health.devices
    assert health.first == "2020-01-01 00:00:00"
    assert health.outdated is None
    assert inspect_store(store.path, count_outdated=True).outdated == 4
    with pytest.raises(StoreError, match="there is no profile store"):
        inspect_store(store.path.with_name("absent"))


def test_repairing_keeps_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "one.sqlite"
    with ProfileStore(path) as store:
        store.absorb(row(number) for number in range(200))
        store.file.run("spoilt", lambda c: c.execute("UPDATE measurement SET result = '{}' WHERE id = 7"))
    assert inspect_store(path).damage == ()
    assert len(inspect_store(path).unreadable) == 1
    assert repair_store(path).sound
    assert inspect_store(path).records == 199
    data = path.read_bytes()
    path.write_bytes(data[:30_000])
    assert not inspect_store(path).sound
    assert path.read_bytes() == data[:30_000]
    repaired = repair_store(path)
    assert repaired.sound
    assert 0 < repaired.records < 199
    assert len(list(tmp_path.glob("one.sqlite.corrupt-?"))) == 2
