"""Servers that tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.arm_board import arm_board_command
from tests.support.board import Server, Tracker, compile_kernels, server_command, serving

Start = Callable[..., Server]


@pytest.fixture(scope="session", autouse=True)
def tvm_is_loaded() -> None:
    """Clients are forked: they need not import it again."""
    import tvm.rpc  # noqa: F401


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_kernels(tmp_path_factory.mktemp("kernels") / "kernels.so")


@pytest.fixture(scope="module", params=["cpp", "python"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that all tests of a module use: each must leave it usable."""
    with serving(server_command(kind), tmp_path_factory.mktemp(kind)) as running:
        yield running


@pytest.fixture(scope="module")
def arm_board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The C++ server on an emulated ARM board."""
    with serving([*arm_board_command(), "--port", "0"], tmp_path_factory.mktemp("arm")) as running:
        yield running


@pytest.fixture(scope="module")
def arm_session(arm_board: Server) -> Iterator[Any]:
    """One session for all tests of a module: the server takes one at a time."""
    remote: Any = arm_board.connect()
    yield remote
    del remote


@pytest.fixture
def start(kind: str, tmp_path: Path) -> Iterator[Start]:
    """Starts servers of a test's own, with options."""
    running: list[Server] = []

    def start_server(*options: str) -> Server:
        running.append(Server(server_command(kind, *options), tmp_path / str(len(running))))
        return running[-1]

    yield start_server
    for one in running:
        one.kill()


@pytest.fixture
def tracker() -> Iterator[Tracker]:
    for module in ("tornado", "cloudpickle", "psutil"):
        pytest.importorskip(module, reason="TVM's tracker needs the extra [rpc]")
    running = Tracker()
    yield running
    running.kill()
