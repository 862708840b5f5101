"""The process that serves one client: TVM's runtime, and the files of the session."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from softneuro_tvm.board.module_file import check_library, check_name
from softneuro_tvm.board.signals import SignalPipe
from softneuro_tvm.board.system_info import FUNCTION, system_info
from softneuro_tvm.device import available_cores
from softneuro_tvm.errors import DeviceError

LIBRARIES = ("libtvm_runtime.so", "libtvm_runtime_extra.so")
"""Of the package tvm; the second one holds the runtime's further functions."""

_PR_SET_PDEATHSIG = 1

logger = logging.getLogger(__name__)


def load_runtime() -> None:
    """Loads TVM's runtime without its compiler and without its Python part, which take seconds and much memory.

    Starts no threads, so that the process may fork afterwards.

    Raises:
        DeviceError: TVM is not installed.
    """
    spec = importlib.util.find_spec("tvm")
    if spec is None or spec.origin is None:
        raise DeviceError("TVM is not installed; `pip install softneuro_tvm` installs it")
    # torch, where it is installed, would be imported by TVM's FFI, and is not needed here
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    importlib.import_module("tvm_ffi")
    folder = Path(spec.origin).parent / "lib"
    for name in LIBRARIES:
        ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)
    # only where there is a driver
    with suppress(OSError):
        ctypes.CDLL(str(folder / "libtvm_runtime_cuda.so"), ctypes.RTLD_GLOBAL)


def serve_client(
    connection: socket.socket, folder: Path, signals: SignalPipe, others: Sequence[socket.socket]
) -> NoReturn:
    """Makes a forked process one that serves a client, and ends with it.

    Args:
        connection: To the client.
        folder: For its files.
        signals: Of the server.
        others: Sockets of the server, which are none of the session's business.
    """
    code = 1
    try:
        os.setpgid(0, 0)
        signals.release()
        for other in others:
            other.close()
        _confine()
        os.chdir(folder)
        _register(folder)
        _runtime_function("rpc.ServerLoop")(connection.fileno())
        ctypes.CDLL(None).fflush(None)  # what kernels have printed
        code = 0
    except Exception as error:
        logger.warning("session process: %s", error)
    finally:
        os._exit(code)


def return_error(connection: socket.socket, message: str) -> None:
    """Answers a client's call with an error, in place of the process that served it."""
    try:
        _runtime_function("rpc.ReturnException")(connection.fileno(), message)
    except Exception as error:
        logger.info("the client could not be told: %s", error)


def _runtime_function(name: str) -> Any:
    import tvm_ffi

    return tvm_ffi.get_global_func(name)


def _confine() -> None:
    """Lets a process live as long as the server at most, dump no core, and be the first to go when memory is short.

    It may use all cores unless the environment says otherwise: TVM alone would leave some idle.
    """
    os.environ.setdefault("TVM_NUM_THREADS", str(available_cores()))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Path("/proc/self/oom_score_adj").write_text("1000")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _register(folder: Path) -> None:
    """Gives TVM its functions for files; all of its other file functions ask them for paths."""
    import tvm_ffi

    load_from_file = _runtime_function("ffi.ModuleLoadFromFile")

    def path_of(name: str) -> str:
        check_name(name)
        return str(folder / name)

    def load_module(name: str) -> Any:
        path = path_of(name)
        check_library(Path(path))
        return load_from_file(path)

    tvm_ffi.register_global_func("tvm.rpc.server.workpath", path_of, override=True)
    tvm_ffi.register_global_func("tvm.rpc.server.load_module", load_module, override=True)
    tvm_ffi.register_global_func(FUNCTION, lambda: json.dumps(system_info()), override=True)
