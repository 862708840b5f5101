"""What happens to the store when processes are killed, disks fill up, and files are in the way."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from softneuro_tvm.errors import StoreError
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler import schema
from softneuro_tvm.profiler.exchange import inspect_store
from softneuro_tvm.profiler.store import ProfileStore
from tests.support.stores import KEY, fill, forked, found, kept, key, read_all


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profile.sqlite"


def test_four_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    def writer(first: int) -> Callable[[int], None]:
        def work(end: int) -> None:
            with ProfileStore(path) as store:
                for number in range(first, first + 200):
                    store.put(key(number), found(number))
                    store.add_samples(key(10_000 + number % 200), Measurement("ok", (first + number % 200 + 1.0,), 0.0))

        return work

    children = [forked(writer(200 * number)) for number in range(4)]
    for child, end in children:
        os.close(end)
        assert os.waitpid(child, 0)[1] == 0
    with ProfileStore(path) as store:
        assert store.get_many(map(key, range(800))) == {key(number): found(number) for number in range(800)}
        for number in range(200):
            joined = store.get(key(10_000 + number))
            assert joined is not None
            assert sorted(joined.samples_s) == [200.0 * writer + number + 1 for writer in range(4)]
            assert len(store.sessions(key(10_000 + number))) == 4
    assert inspect_store(path).sound


def test_a_writer_killed_at_any_moment_loses_only_the_record_being_written(path: Path) -> None:
    generator = random.Random(7)
    before = 0
    for attempt in range(40):

        def work(end: int, attempt: int = attempt) -> None:
            with ProfileStore(path) as store:
                for number in range(1_000_000):
                    store.put(replace(key(number), routine=str(attempt)), found(number))
                    os.write(end, b".")

        child, end = forked(work)
        reported = len(os.read(end, 1)) if attempt % 2 else 0  # half of them while it writes, the others at any time
        time.sleep(generator.random() * 0.03)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        reported += len(read_all(end))
        health = inspect_store(path) if path.exists() and path.stat().st_size else None
        with ProfileStore(path) as store:
            after = sum(1 for _ in store.records())
        assert health is None or health.sound
        assert reported <= after - before <= reported + 1
        before = after
    assert before > 0
    assert not list(path.parent.glob("*.corrupt-*"))


def test_a_file_that_another_process_replaces_is_followed(path: Path) -> None:
    with ProfileStore(path) as store:
        store.put(key(1), found(1))
        for part in path.parent.glob("profile.sqlite*"):
            part.unlink()
        store.put(key(2), found(2))
    with ProfileStore(path) as store:
        assert store.get_many([key(1), key(2)]) == {key(2): found(2)}


def test_a_file_of_another_kind_is_refused_and_kept(tmp_path: Path) -> None:
    text, database = tmp_path / "model.onnx", tmp_path / "other.sqlite"
    text.write_text("a model, say" * 100)
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE songs (name)")
    before = text.read_bytes(), database.read_bytes()
    for opening in (ProfileStore, inspect_store):
        with pytest.raises(StoreError, match="no profile store"):
            opening(text)
    with pytest.raises(StoreError, match="another program's database"):
        ProfileStore(database)
    assert (text.read_bytes(), database.read_bytes()) == before


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder; name a file"):
        ProfileStore(tmp_path)


def test_a_file_that_stays_locked_is_explained(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_S", 0.05)
    with ProfileStore(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another process keeps it locked"):
            store.put(KEY, found(0))
        assert store.get(KEY) is None
        other.execute("ROLLBACK")
        other.close()
        store.put(KEY, found(0))


def test_an_opener_that_hangs_is_explained(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_S", 0.05)
    fill(path, 1)
    holding, ended = threading.Event(), threading.Event()

    def hold() -> None:
        import fcntl

        with path.with_name("profile.sqlite.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            holding.set()
            ended.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait()
    try:
        with pytest.raises(StoreError, match="wait for it or end it"):
            ProfileStore(path)
    finally:
        ended.set()
        thread.join()


def test_a_file_size_limit_is_explained(path: Path) -> None:
    fill(path, 3)

    def work(end: int) -> None:
        with ProfileStore(path) as store:
            resource.setrlimit(resource.RLIMIT_FSIZE, (96 << 10, 96 << 10))
            try:
                for number in range(3, 1000):
                    store.put(key(number), found(number))
            except StoreError as error:
                os.write(end, f"{number} {error}".encode())

    child, end = forked(work)
    said = read_all(end).decode()
    assert os.waitpid(child, 0)[1] == 0
    assert "free some space" in said
    written = int(said.split()[0])
    assert kept(path, 1000) >= written
    assert inspect_store(path).sound


FULL_DISK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.support.stores import fill, found, kept, key
from softneuro_tvm.errors import StoreError
from softneuro_tvm.profiler.exchange import inspect_store, merge_stores
from softneuro_tvm.profiler.store import ProfileStore

path = Path(sys.argv[1]) / "profile.sqlite"
with ProfileStore(path) as store:
    try:
        for number in range(10000):
            store.put(key(number), found(number))
    except StoreError as error:
        print(error)
    assert len(store.get_many(map(key, range(number)))) == number, "what was written is still there"
assert inspect_store(path).sound
(path.parent / "ballast").unlink()
assert kept(path, number) == number > 0
try:
    (path.parent / "ballast").write_bytes(bytes(10 << 20))
except OSError:
    pass
try:
    ProfileStore(path.with_name("other.sqlite"))
    raise SystemExit("a full disk was not noticed")
except StoreError as error:
    print(error)
assert inspect_store(path).sound
"""
READ_ONLY = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.support.stores import key
from softneuro_tvm.errors import StoreError
from softneuro_tvm.profiler.exchange import inspect_store, merge_stores
from softneuro_tvm.profiler.store import ProfileStore

path = Path(sys.argv[1]) / "profile.sqlite"
try:
    ProfileStore(path)
    raise SystemExit("a read-only folder was not noticed")
except StoreError as error:
    print(error)
assert inspect_store(path).records == 20
with ProfileStore(Path(sys.argv[1]).parent / "mine.sqlite") as store:
    assert merge_stores(store, [path]).new == 20
"""


def in_own_mounts(commands: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a shell in a mount namespace of its own: mounts vanish with it, and nobody else sees them."""
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", commands, "sh", *map(str, arguments)]
    return subprocess.run(shell, capture_output=True, text=True, check=False, timeout=120)


def can_mount() -> bool:
    return shutil.which("unshare") is not None and in_own_mounts("mount -t tmpfs none /mnt").returncode == 0


needs_mounts = pytest.mark.skipif(not can_mount(), reason="this system allows no mounts in a namespace")
ROOT = Path(__file__).parents[2]


@needs_mounts
def test_a_full_disk_is_explained_and_harmless(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    done = in_own_mounts(
        'mount -t tmpfs -o size=1m none "$1"; head -c 400000 /dev/zero > "$1/ballast"; "$2" -c "$3" "$1" "$4"',
        *(folder, sys.executable, FULL_DISK, ROOT),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("free some space on that disk") == 2


@needs_mounts
def test_a_read_only_disk_is_explained_and_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    fill(folder / "profile.sqlite", 20)
    done = in_own_mounts(
        'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; "$2" -c "$3" "$1" "$4"',
        *(folder, sys.executable, READ_ONLY, ROOT),
    )
    assert done.returncode == 0, done.stderr
    assert "make the file and its folder writable" in done.stdout
