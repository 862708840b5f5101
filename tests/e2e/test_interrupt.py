"""Ctrl-C and kill -9 during tuning lose nothing but the measurement in flight, and leave no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import softneuro_tvm as sn
from softneuro_tvm.profiler.store import ProfileStore


def records(path: Path) -> int:
    with ProfileStore(path) as store:
        return sum(1 for _ in store.records())


def descendants(group: int) -> list[int]:
    """Processes whose session is the one that was started."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (
                os.getsid(int(entry.name)) == group
                and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            ):
                found.append(int(entry.name))
        except (ProcessLookupError, FileNotFoundError, PermissionError):
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_tune_keeps_what_it_measured(tmp_path: Path, number: signal.Signals) -> None:
    store = tmp_path / "store.sqlite"
    command = [sys.executable, "-m", "softneuro_tvm", "tune", "zoo:digits", "-o", str(tmp_path / "x.so")]
    with subprocess.Popen(
        [*command, "--tuning-records", str(store), "--threads", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not (store.exists() and records(store) >= 3) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, message = process.communicate(timeout=60)
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert "resumes" in message
        kept = records(store)
        assert kept >= 3
        deadline = time.monotonic() + 60
        while descendants(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not descendants(process.pid)
    assert not (tmp_path / "x.so").exists()
    model, known = sn.load("zoo:digits"), []

    class Watch:
        def started(self, total: int, count: int) -> None:
            known.append(count)
            raise KeyboardInterrupt  # what is known is known before anything is measured

    with pytest.raises(KeyboardInterrupt):
        sn.tune(model, device=sn.host_device(1), store=store, observer=Watch())  # type: ignore[arg-type]
    assert known == [kept]
