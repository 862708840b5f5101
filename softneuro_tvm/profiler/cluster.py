"""Compiling on a cluster: dask's workers generate and compile candidates; packing, linking, measuring stay here.

Each thread of a worker has a fork server of its own, as this machine has: a candidate that crashes or hangs while it is
compiled takes no worker down. A worker that is lost is dask's business.
"""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from softneuro_tvm.device import Device
from softneuro_tvm.errors import ClusterError, ProfileError
from softneuro_tvm.profiler.messages import Outcome, Toolchain
from softneuro_tvm.profiler.workers import Workers

_CONNECT_S = 10.0
_START_S = 120.0
"""For all workers to start their fork servers."""
_PATIENCE_S = 60.0
"""So long a cluster without workers is waited for."""
_LOOK_S = 5.0
_RETRIES = 2
_REMEDY = "install there what is installed here, and start the worker again"
_KEPT = "what was measured is kept, and the same command goes on from there"

_of_thread = threading.local()


class Compiler:
    """The fork server of a worker's thread, and what it generates and compiles with."""

    def __init__(self) -> None:
        self.workers = Workers()
        self.toolchain: Toolchain = pickle.loads(self.run("toolchain", (), _START_S).value or b"")

    def run(self, function: str, arguments: tuple[Any, ...], timeout_s: float) -> Outcome:
        """Runs one task."""
        self.workers.submit(function, arguments, timeout_s)
        return self.workers.outcome()


def _compiler() -> Compiler:
    if not hasattr(_of_thread, "compiler"):
        _of_thread.compiler = Compiler()
    found: Compiler = _of_thread.compiler
    return found


def toolchain_there() -> Toolchain:
    """What a worker generates and compiles with; runs there."""
    return _compiler().toolchain


def generate_there(pickled: bytes, device: Device, elsewhere: bool, wanted: Toolchain, timeout_s: float) -> Outcome:
    """Generates and compiles a candidate; runs on a worker.

    Args:
        pickled: The candidate.
        device: What to compile for.
        elsewhere: Whether it is measured on a board.
        wanted: What the worker must generate and compile with.
        timeout_s: How long that may take.

    Returns:
        Of `generate_pickled`.

    Raises:
        ClusterError: the worker would generate something else.
    """
    compiler = _compiler()
    if differences := differences_of(compiler.toolchain, wanted, device):
        raise ClusterError(f"a dask worker has {differences}; {_REMEDY}")
    try:
        return compiler.run("generate_pickled", (pickled, device, elsewhere), timeout_s)
    except ProfileError:
        del _of_thread.compiler  # dask tries again, with a new one
        raise


def differences_of(found: Toolchain, wanted: Toolchain, device: Device) -> str:
    """What makes two toolchains yield different code for a device; empty if nothing does."""
    same = [
        (found.tvm, wanted.tvm, "apache-tvm {}"),
        (found.ffi, wanted.ffi, "apache-tvm-ffi {}"),
        (found.sources, wanted.sources, "routines of another version ({})"),
    ]
    if "mtriple" not in device.target:
        same.append((found.platform, wanted.platform, "another platform, {}, which is what it would compile for"))
    texts = [f"{text.format(there)}, here {here}" for there, here, text in same if there != here]
    return "; ".join(texts)


class CompileCluster:
    """The workers of a dask scheduler; use as a context manager.

    Args:
        address: Of the scheduler, e.g. ``tcp://127.0.0.1:8786``.
        device: What is compiled for.

    Attributes:
        threads: Of all workers, when `look` was called.

    Raises:
        ClusterError: the scheduler cannot be reached, has no workers, or one of them would compile something else.
    """

    def __init__(self, address: str, device: Device) -> None:
        try:
            import distributed
            from distributed.comm import resolve_address
        except ImportError as error:
            raise ClusterError(
                f"compiling on a cluster needs the package distributed ({error}): "
                "pip install 'softneuro_tvm[distributed]'"
            ) from error
        from softneuro_tvm.profiler.generating import toolchain

        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is said by errors
        self.address, self._wanted = address, toolchain()
        try:
            resolve_address(address)  # the client would complain of it, and then wait for itself
            self._client = distributed.Client(address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterError(
                f"the dask scheduler {address} cannot be reached: {error}; start one with `dask scheduler`, check "
                "--dask-scheduler, or leave it out to compile on this machine"
            ) from error
        self.threads, self._looked_s = 0, 0.0
        self._alone_since_s: float | None = None
        try:
            self._examine(device)
            self.look()
        except BaseException:
            self.close()
            raise

    def _examine(self, device: Device) -> None:
        """Makes sure that all workers compile what this machine would compile."""
        if not (workers := list(self._client.nthreads())):
            raise ClusterError(
                f"the dask scheduler {self.address} has no workers; start some with `dask worker {self.address}`"
            )
        asked = {name: self._client.submit(toolchain_there, workers=[name], pure=False) for name in workers}
        deadline_s = time.monotonic() + _START_S
        for name, future in asked.items():
            try:
                found = future.result(timeout=max(1.0, deadline_s - time.monotonic()))
            except Exception as error:  # whatever a worker's Python raises
                said = f"{type(error).__name__}: {error}"
                raise ClusterError(f"the dask worker {name} cannot compile: {said}; {_REMEDY}") from error
            if differences := differences_of(found, self._wanted, device):
                raise ClusterError(f"the dask worker {name} has {differences}; {_REMEDY}")

    def look(self) -> None:
        """Counts threads again, if that was some seconds ago.

        Raises:
            ClusterError: the scheduler is gone, or there have been no workers for a while.
        """
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_S:
            return
        self._check()
        try:
            self.threads, self._looked_s = sum(self._client.nthreads().values()), now_s
        except (OSError, TimeoutError) as error:  # it went while it was asked
            raise ClusterError(f"the dask scheduler {self.address} is gone; {_KEPT}") from error
        self._alone_since_s = None if self.threads else self._alone_since_s or now_s
        if self._alone_since_s and now_s - self._alone_since_s > _PATIENCE_S:
            raise ClusterError(f"the dask scheduler {self.address} has lost all its workers; {_KEPT}")

    def _check(self) -> None:
        if self._client.status != "running":
            raise ClusterError(f"the dask scheduler {self.address} is gone; {_KEPT}")

    def submit(
        self, pickled: bytes, device: Device, elsewhere: bool, timeout_s: float, done: Callable[[Any], None]
    ) -> Any:
        """Has a candidate generated and compiled, as long as the future that is returned is kept.

        Args:
            pickled: The candidate.
            device: What to compile for.
            elsewhere: Whether it is measured on a board.
            timeout_s: How long that may take.
            done: Given the future once it has a result or an error, in another thread.
        """
        arguments = (pickled, device, elsewhere, self._wanted, timeout_s)
        future = self._client.submit(generate_there, *arguments, pure=False, retries=_RETRIES)
        future.add_done_callback(done)
        return future

    def result(self, future: Any) -> Outcome:
        """The outcome of what was submitted.

        Raises:
            ClusterError: there is none.
        """
        try:
            found = future.result(timeout=_CONNECT_S)
        except ClusterError:
            raise
        except Exception as error:  # whatever dask or a worker's Python raises
            self._check()
            said = f"{type(error).__name__}: {error}"
            raise ClusterError(f"the dask workers of {self.address} cannot compile: {said}; {_KEPT}") from error
        assert isinstance(found, Outcome)
        return found

    def close(self) -> None:
        """Leaves the cluster; what it still compiles is dropped."""
        self._client.close(timeout=_LOOK_S)

    def __enter__(self) -> CompileCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
