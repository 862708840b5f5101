"""Damaged stores: no record is ever wrong, what can be read is kept, and what is lost is said."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from softneuro_tvm.errors import StoreError
from softneuro_tvm.profiler.exchange import inspect_store, merge_stores
from softneuro_tvm.profiler.store import ProfileStore
from tests.support.stores import ROWS, fill, forked, found, kept, key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profile.sqlite"


def test_truncation_at_any_length_is_survived(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(path)
    whole = path.read_bytes()
    generator = random.Random(3)
    lengths = [0, 1, 15, 16, 99, 100, 101, 4095, 4096, 4097, len(whole) - 1]
    some = 0
    for length in [*lengths, *(generator.randrange(len(whole)) for _ in range(40))]:
        for part in path.parent.glob("profile.sqlite[.-][!l]*"):
            part.unlink()
        path.write_bytes(whole[:length])
        caplog.clear()
        count = kept(path)
        some += 0 < count < ROWS
        assert count == ROWS or "damaged" in caplog.text or "records are lost" in caplog.text, length
        assert not inspect_store(path).damage
    assert some > 10, "most records before the cut are read"


def test_a_flipped_byte_anywhere_yields_no_wrong_record(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(path)
    whole = path.read_bytes()
    generator = random.Random(5)
    places = [*range(0, 108, 6), *(4096 * page + at for page in range(1, 6) for at in (0, 3, 8))]
    places += [generator.randrange(len(whole)) for _ in range(60)]
    lost = 0
    for place in places:
        for part in path.parent.glob("profile.sqlite[.-][!l]*"):
            part.unlink()
        path.write_bytes(whole[:place] + bytes((whole[place] ^ generator.randrange(1, 256),)) + whole[place + 1 :])
        caplog.clear()
        try:
            count = kept(path)
        except StoreError as error:
            assert 60 <= place < 64, "only a version number may be taken at its word"
            assert "newer" in str(error)
            continue
        lost += ROWS - count
        assert count == ROWS or "damaged" in caplog.text, place
    assert lost < len(places) * ROWS / 10, "a flipped byte costs few records"


def random_page(data: bytearray, generator: random.Random) -> None:
    at = generator.randrange(len(data) // 4096) * 4096
    data[at : at + 4096] = generator.randbytes(4096)


def swapped_pages(data: bytearray, generator: random.Random) -> None:
    one, two = (generator.randrange(len(data) // 4096) * 4096 for _ in range(2))
    data[one : one + 4096], data[two : two + 4096] = data[two : two + 4096], data[one : one + 4096]


def many_bytes(data: bytearray, generator: random.Random) -> None:
    for _ in range(20):
        data[generator.randrange(len(data))] ^= generator.randrange(1, 256)


@pytest.mark.parametrize("damage", [random_page, swapped_pages, many_bytes])
def test_worse_damage_costs_what_it_hits(path: Path, damage: Callable[[bytearray, random.Random], None]) -> None:
    fill(path)
    whole = path.read_bytes()
    generator = random.Random(13)
    for _ in range(15):
        for part in path.parent.glob("profile.sqlite[.-][!l]*"):
            part.unlink()
        data = bytearray(whole)
        damage(data, generator)
        path.write_bytes(data)
        assert kept(path) >= ROWS / 2
        assert not inspect_store(path).damage


def test_a_kill_while_a_store_is_rebuilt_loses_no_record_that_can_be_read(tmp_path: Path) -> None:
    whole = tmp_path / "whole.sqlite"
    fill(whole)
    generator = random.Random(17)
    data = bytearray(whole.read_bytes())
    data[8 * 4096 : 9 * 4096] = generator.randbytes(4096)
    for attempt in range(15):
        path = tmp_path / str(attempt) / "profile.sqlite"
        path.parent.mkdir()
        path.write_bytes(data)

        def work(end: int, path: Path = path) -> None:
            os.write(end, b".")
            ProfileStore(path)

        child, end = forked(work)
        os.read(end, 1)
        time.sleep(generator.random() * 0.03)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(end)
        with ProfileStore(path) as store:
            merge_stores(store, sorted(path.parent.glob("*.corrupt-?")))
            known = store.get_many(map(key, range(ROWS)))
        assert len(known) >= ROWS - 5
        assert all(measurement == found(int(k.params)) for k, measurement in known.items())
        assert not list(path.parent.glob("*.new*"))


def crashed(path: Path) -> None:
    """Leaves records in the log, as a killed writer does."""

    def work(end: int) -> None:
        store = ProfileStore(path)
        for number in range(ROWS):
            store.put(key(number), found(number))
        os.kill(os.getpid(), signal.SIGKILL)

    child, end = forked(work)
    os.close(end)
    os.waitpid(child, 0)


@pytest.mark.parametrize("truncated", [False, True])
def test_a_damaged_log_is_noticed(path: Path, caplog: pytest.LogCaptureFixture, truncated: bool) -> None:
    crashed(path)
    log = path.with_name("profile.sqlite-wal")
    files = {part: part.read_bytes() for part in (path, log)}
    assert len(files[log]) > 100_000
    generator = random.Random(11)
    frame = 24 + 4096
    places = [0, 5, 9, 17, 25, 32, 36, 40, 50] + [generator.randrange(len(files[log]) - frame) for _ in range(30)]
    for place in places:
        for part in path.parent.glob("profile.sqlite[.-][!l]*"):
            part.unlink()
        path.write_bytes(files[path])
        data = files[log]
        log.write_bytes(data[:place] if truncated else data[:place] + bytes((data[place] ^ 255,)) + data[place + 1 :])
        caplog.clear()
        count = kept(path)
        if not truncated:  # a shorter log looks like one that was not written further
            assert count < ROWS
            assert "lost" in caplog.text or "damaged" in caplog.text, place
        assert inspect_store(path).sound


def test_a_sound_log_is_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    crashed(path)
    assert kept(path) == ROWS
    assert "lost" not in caplog.text


def test_damage_under_an_open_store_is_met_and_repaired(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(path)
    store = ProfileStore(path)
    size = path.stat().st_size

    def work(end: int) -> None:  # elsewhere: closing a file drops this process's locks on it
        with path.open("r+b") as stream:
            stream.seek(4096)
            stream.write(os.urandom(size - 4096))

    child, end = forked(work)
    os.close(end)
    assert os.waitpid(child, 0)[1] == 0
    store.file._connection.execute("PRAGMA shrink_memory")
    known = store.get_many(map(key, range(ROWS)))
    assert all(known[k] == found(int(k.params)) for k in known)
    store.put(key(0), found(0))
    assert store.get(key(0)) == found(0)
    store.close()
    assert "damaged" in caplog.text
    assert inspect_store(path).sound
