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
from softneuro_tvm.reference import sample_inputs


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


@pytest.mark.parametrize(("number", "measured"), [(signal.SIGINT, 1), (signal.SIGINT, 12), (signal.SIGKILL, 3)])
def test_an_interrupted_tune_keeps_what_it_measured(tmp_path: Path, number: signal.Signals, measured: int) -> None:
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
        while not (store.exists() and records(store) >= measured) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, message = process.communicate(timeout=60)
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert "resumes" in message
        kept = records(store)
        assert kept >= measured
        deadline = time.monotonic() + 60
        while descendants(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not descendants(process.pid)
    model, known = sn.load("zoo:digits"), []
    built = tmp_path / "x.so"
    if built.exists():  # every layer had a routine by then
        sn.load_module(built)(*sample_inputs(model.graph).values())
    if number == signal.SIGINT:
        left = {path.name for path in tmp_path.iterdir() if not path.name.startswith("store.sqlite")}
        assert left == ({"x.so", "x.plan.json"} if built.exists() else set())

    class Watch:
        def started(self, total: int, count: int) -> None:
            known.append(count)
            raise KeyboardInterrupt  # what is known is known before anything is measured

    with pytest.raises(KeyboardInterrupt):
        sn.tune(model, device=sn.host_device(1), store=store, observer=Watch())  # type: ignore[arg-type]
    assert known == [kept]
