"""Compiled kernels on disk: found again, never damaged, never too many."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from softneuro_tvm import object_cache
from softneuro_tvm.object_cache import ObjectCache

KEY = "ab" + "0" * 30

EXCHANGE = """
import sys
from softneuro_tvm.object_cache import ObjectCache
cache = ObjectCache(sys.argv[1])
for i in range(200):
    for key in ("aa", "bb"):
        cache.put(key, key.encode() * (100_000 + i))
        found = cache.get(key)
        assert found is not None and set(found) == set(key.encode()), "a part of an object was read"
"""


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_was_put_is_found(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path / "made" / "when needed")
    assert cache.get(KEY) is None
    cache.put(KEY, b"\x7fELF code")
    assert cache.get(KEY) == b"\x7fELF code"
    assert ObjectCache(cache.folder).get(KEY) == b"\x7fELF code"
    assert cache.get("ab" + "1" * 30) is None


def test_the_last_object_of_a_key_counts(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    cache.put(KEY, b"one")
    cache.put(KEY, b"two")
    assert cache.get(KEY) == b"two"
    assert len(files(tmp_path)) == 1


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.write_bytes({"flipped": bytes([data[0] ^ 1]) + data[1:], "cut": data[:-1], "empty": b""}[how])


@pytest.mark.parametrize("how", ["flipped", "cut", "empty"])
def test_damage_is_noticed(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    cache = ObjectCache(tmp_path)
    cache.put(KEY, b"code" * 100)
    damage(files(tmp_path)[0], how)
    assert cache.get(KEY) is None
    assert "damaged" in caplog.text
    assert not files(tmp_path)
    cache.put(KEY, b"code again")
    assert cache.get(KEY) == b"code again"


def test_processes_share_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", EXCHANGE, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 0, said
        assert not said
    assert sorted(path.name for path in files(tmp_path)) == ["aa.o", "bb.o"]


def test_what_was_used_longest_ago_is_removed(tmp_path: Path) -> None:
    stored_bytes = 1000 + hashlib.sha256().digest_size
    cache = ObjectCache(tmp_path, limit_bytes=256 * 3 * stored_bytes)  # three in each of the 256 folders
    for age, key in enumerate(["abc", "abb", "aba"]):
        cache.put(key, bytes(1000))
        os.utime(tmp_path / "ab" / f"{key}.o", (1e9 - age, 1e9 - age))
    assert cache.get("aba") is not None  # the oldest one is used
    cache.put("abd", bytes(1000))
    cache.put("cdd", bytes(1000))
    assert [key for key in ("aba", "abb", "abc", "abd", "cdd") if cache.get(key)] == ["aba", "abc", "abd", "cdd"]


def test_a_large_object_is_kept_until_the_next_one(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit_bytes=256 * 100)
    cache.put("ab1", bytes(1000))
    assert cache.get("ab1") == bytes(1000)
    cache.put("ab2", bytes(10))
    assert cache.get("ab1") is None
    assert cache.get("ab2") == bytes(10)


def test_a_folder_that_cannot_be_used_costs_no_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = ObjectCache(tmp_path / "file")
    with caplog.at_level(logging.WARNING):
        cache.put(KEY, b"code")
        assert cache.get(KEY) is None
    assert "cannot keep compiled kernels" in caplog.text


def test_nothing_is_left_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(object_cache.os, "replace", full)
    ObjectCache(tmp_path).put(KEY, b"code")
    assert not files(tmp_path)


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTNEURO_TVM_OBJECTS", str(tmp_path))
    assert ObjectCache().folder == tmp_path
    monkeypatch.delenv("SOFTNEURO_TVM_OBJECTS")
    assert ObjectCache().folder.name == "objects"
