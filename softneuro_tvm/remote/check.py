"""Checks of a board and the way to it, each with its remedy. Needs no TVM."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from importlib.metadata import version

from softneuro_tvm.device import HOST, Device
from softneuro_tvm.doctor import Finding, governor_finding
from softneuro_tvm.errors import BoardError
from softneuro_tvm.fingerprint import code_features
from softneuro_tvm.measurement import spread
from softneuro_tvm.remote.board import Board
from softneuro_tvm.remote.messages import Examined
from softneuro_tvm.remote.site import Site
from softneuro_tvm.remote.tracker import summary

_NOISY = 0.05
_FAR_S, _SLOW_BYTES_PER_S = 0.05, 1e6
_HOT_C, _SHORT_BYTES, _SKEW_S = 80.0, 256 << 20, 300.0


def check_board(board: Board, device: Device | None) -> list[Finding]:
    """Examines a board; ends with the first thing without which nothing else works.

    Args:
        board: Where.
        device: What is going to be tuned for; None if that is not known.
    """
    findings = []
    try:
        if board.tracker is not None:
            findings.append(_tracker(board))
        with Site(board) as site:
            wanted = _runnable(site, device)
            findings += _all(site.examine(wanted), device, wanted is not None)
    except BoardError as error:
        findings.append(Finding("board", False, "no session", str(error)))
    return findings


def _tracker(board: Board) -> Finding:
    assert board.tracker is not None
    known = summary(board.tracker, board.connect_timeout_s)
    boards = known.servers(board.key)
    found = f"{len(boards)} board(s) with key {board.key}, {known.free(board.key)} free; keys: {', '.join(known.keys)}"
    remedy = "" if boards else f"start a server with --key {board.key}, or name another key"
    return Finding("tracker", bool(boards), found, remedy)


def _runnable(site: Site, device: Device | None) -> Device | None:
    """The device, if the board can run code for it."""
    if device is None or site.facts.get("machine", device.machine) != device.machine:
        return None
    if device.name != HOST and set(site.facts.get("features", device.features)) < device.features:
        return None
    return device


def _all(found: Examined, device: Device | None, ran: bool) -> Iterator[Finding]:
    facts = found.facts
    yield Finding("board", True, f"{found.name}, session after {1e3 * found.connect_s:.0f} ms")
    yield _versions(facts.get("tvm"))
    features = code_features(facts.get("features", ()))
    part = f"{facts.get('part', 'unknown')} ({facts.get('machine', 'unknown')}), {facts.get('cores', '?')} core(s)"
    yield Finding(
        "processor", True, part, "" if facts else "TVM's own server cannot say; use `softneuro-tvm rpc-server`"
    )
    if features:
        yield Finding("instruction sets", True, " ".join(features))
    if device is not None:
        yield _target(found, device)
    yield Finding("threads", True, f"{found.threads} of the server's pool", _few_threads(found))
    if "governor" in facts:
        yield governor_finding(str(facts["governor"]))
    if frequency := facts.get("frequency_hz"):
        yield Finding("frequency", True, f"{frequency / 1e6:.0f} MHz now")
    if (celsius := facts.get("temperature_c")) is not None:
        cool = celsius < _HOT_C
        yield Finding(
            "temperature", cool, f"{celsius:.0f} °C", "" if cool else "it slows down when hot: cool the board"
        )
    if (free := facts.get("memory_free_bytes")) is not None:
        enough = free >= _SHORT_BYTES
        yield Finding("memory", enough, f"{free >> 20} MiB free", "" if enough else "end what else runs on the board")
    if (clock_s := facts.get("time_s")) is not None:
        skew_s = clock_s - time.time()
        right = abs(skew_s) < _SKEW_S
        yield Finding("clock", right, f"{skew_s:+.0f} s off", "" if right else "set the board's clock, e.g. by NTP")
    near = found.round_trip_s < _FAR_S and found.bytes_per_s > _SLOW_BYTES_PER_S
    line = f"round trip {1e3 * found.round_trip_s:.2f} ms, {found.bytes_per_s / 1e6:.1f} MB/s"
    yield Finding("line", near, line, "" if near else "use a wire instead of a radio; tuning works, but takes long")
    yield _noise(found, ran)


def _versions(there: str | None) -> Finding:
    here = version("apache-tvm")
    if there is None:
        return Finding("TVM", True, f"{here} here, unknown there", "make sure that the board has the same version")
    same = there.split(".")[:2] == here.split(".")[:2]
    return Finding("TVM", same, f"{here} here, {there} there", "" if same else f"install TVM {here} on the board")


def _target(found: Examined, device: Device) -> Finding:
    machine = found.facts.get("machine", device.machine)
    if machine != device.machine:
        return Finding("target", False, f"{device.name} is {device.machine}, the board {machine}", "another --target")
    features = frozenset(found.facts.get("features", device.features))
    lacking = sorted(device.features - features) if device.name != HOST else []
    remedy = f"choose another --target: the board lacks {', '.join(lacking)}" if lacking else ""
    return Finding("target", not lacking, device.name, remedy)


def _few_threads(found: Examined) -> str:
    cores = int(found.facts.get("cores", found.threads))
    return "" if found.threads >= cores else f"start the server with TVM_NUM_THREADS={cores} to tune for all cores"


def _noise(found: Examined, ran: bool) -> Finding:
    if not ran or not found.reference_s:
        return Finding("noise", True, "not measured", "name the board's device with --target")
    noise = spread(found.reference_s)
    quiet = noise < _NOISY
    line = f"reference kernel {1e6 * statistics.median(found.reference_s):.1f} us, quartiles {100 * noise:.1f} % apart"
    return Finding("noise", quiet, line, "" if quiet else "end what else runs on the board, and fix its frequency")
