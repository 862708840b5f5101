"""What a board says about itself, and what stands for it in the profile store. Needs no TVM.

Servers that can say it offer the function `SYSTEM_INFO`, which returns JSON text; each part may be missing: ``part``,
``machine``, ``features``, ``cores``, ``governor``, ``frequency_driver``, ``boost``, ``smt``, ``frequency_hz``,
``temperature_c``, ``memory_free_bytes``, ``l1_bytes``, ``l2_bytes``, ``l3_bytes``, ``tvm``, ``kernel``, ``time_s``.
TVM's own servers cannot: then the board's key and the device file have to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from softneuro_tvm.device import HOST, Device
from softneuro_tvm.errors import BoardError
from softneuro_tvm.fingerprint import fingerprint
from softneuro_tvm.remote.board import Board

SYSTEM_INFO = "softneuro.system_info"
"""Function of a board's server."""

_CACHES = ("l1_bytes", "l2_bytes", "l3_bytes")


def device_on(board: Board, device: Device, facts: Mapping[str, Any]) -> Device:
    """The device as the board says it is.

    Args:
        board: Where it is.
        device: What code is to be generated for.
        facts: What the board says about itself.

    Raises:
        BoardError: the board cannot run such code.
    """
    if (machine := facts.get("machine", device.machine)) != device.machine:
        raise BoardError(
            f"the board {board.place} is of the kind {machine}, code for {device.name} is for {device.machine}; choose "
            "another --target or --rpc-key"
        )
    known = frozenset(facts.get("features", ()))
    if device.name != HOST and known and (lacking := sorted(device.features - known)):
        raise BoardError(
            f"the board {board.place} ({facts.get('part', 'unknown')}) lacks {', '.join(lacking)}, which code for "
            f"{device.name} uses; choose another --target (`softneuro-tvm devices` lists them)"
        )
    caches = {name: int(facts[name]) for name in _CACHES if facts.get(name)}
    part = str(facts.get("part") or f"{device.part} ({board.key or board.place})")
    return replace(device, part=part, features=known or device.features, **caches)  # type: ignore[arg-type]


def check_threads(name: str, there: int, wanted: int) -> None:
    """Makes sure that a board's server has enough threads.

    Args:
        name: Address of the board.
        there: Of the server's thread pool.
        wanted: That kernels should use.

    Raises:
        BoardError: it has fewer.
    """
    if there < wanted:
        raise BoardError(
            f"the server of the board at {name} uses {there} thread(s), {wanted} were asked for; start it with "
            f"TVM_NUM_THREADS={wanted} in its environment, or tune with --threads {there}"
        )


def board_fingerprint(device: Device, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The fingerprint of a board.

    Args:
        device: From `device_on`.
        facts: What the board says about itself.
    """
    return fingerprint(device, {**dict.fromkeys(("cores", "kernel")), **facts})
