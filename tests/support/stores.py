"""A store with made-up records, and child processes that can be killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler.keys import Key
from softneuro_tvm.profiler.store import ProfileStore

KEY = Key("{}", "conv2d/direct", "", "in -> out", "abc", "{}", "part", 2, "0.27", "dram")
ROWS = 60


def key(number: int) -> Key:
    return replace(KEY, params=str(number))


def found(number: int) -> Measurement:
    return Measurement("ok", tuple((number + 1) * 1.0000001e-6 + i * 1e-9 for i in range(25)), 1e-7)


def fill(path: Path, count: int = ROWS) -> None:
    with ProfileStore(path) as store:
        for number in range(count):
            store.put(key(number), found(number))


def kept(path: Path, count: int = ROWS) -> int:
    """Opens a store that was tampered with; no record may be wrong. How many there are."""
    keys = {key(number): found(number) for number in range(count)}
    with ProfileStore(path) as store:
        known = store.get_many(keys)
        assert all(keys[k] == measurement for k, measurement in known.items())
        store.put(KEY, found(0))
        assert store.get(KEY) == found(0)
    return len(known)


def forked(work: Callable[[int], None]) -> tuple[int, int]:
    """Runs a function in a child process, with the writing end of a pipe; returns its id and the reading end."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read_end)
            work(write_end)
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    return child, read_end


def read_all(end: int) -> bytes:
    with os.fdopen(end, "rb") as stream:
        return stream.read()
