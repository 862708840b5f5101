"""Options of the servers, their beginning and their end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.board.conftest import Start
from tests.support.board import (
    LIMIT_S,
    ClientError,
    Server,
    Tracker,
    add_one,
    call,
    is_running,
    run_client,
    server_command,
    wait_until,
)

RIGHT = [1.0, 2.0, 3.0, 4.0]
KEY = "some-board"


def test_sigterm_ends_a_busy_server_with_all_it_has_started(start: Start, kernels: Path) -> None:
    server = start()
    process = run_client(lambda: call(server.connect(), kernels, "start_process"))
    client = server.hang(kernels)
    children = _children(server.process.pid)
    assert server.stop() == 0
    with pytest.raises(ClientError, match="the server is being stopped"):
        client.result()
    assert children
    wait_until(lambda: not any(map(is_running, [*children, process])), "the end of all it has started")
    assert not list(server.work_dir.iterdir())
    assert server.log.endswith("stopped\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_an_idle_server(start: Start, number: int) -> None:
    assert start().stop(number) == 0


def test_a_session_does_not_outlive_a_killed_server(start: Start, kernels: Path) -> None:
    server = start()
    client = server.hang(kernels)
    children = _children(server.process.pid)
    server.kill()
    wait_until(lambda: not any(map(is_running, children)), "the end of the session's process")
    client.kill()


@pytest.mark.parametrize("asked_s", [0, 1000])
def test_the_servers_own_limit_holds(start: Start, kernels: Path, asked_s: float) -> None:
    server = start("--session-timeout", "1")
    with pytest.raises(ClientError, match="RPCSessionTimeoutError"):
        run_client(lambda: call(server.connect(session_timeout=asked_s), kernels, "hang"))
    server.wait_for_log("timeout of 1 s")


def test_clients_from_elsewhere_are_refused(start: Start, kernels: Path) -> None:
    server = start("--allow", "10.1.2.3", "--allow", "fd00::/8")
    with pytest.raises(ClientError):
        run_client(lambda: add_one(server.connect(), kernels))
    server.wait_for_log("refused 127.0.0.1:[0-9]+: not in --allow")


def test_clients_from_allowed_addresses_are_served(start: Start, kernels: Path) -> None:
    server = start("--allow", "10.1.2.3", "--allow", "127.0.0.0/8")
    assert run_client(lambda: add_one(server.connect(), kernels)) == RIGHT


def test_a_key_without_a_tracker(start: Start, kernels: Path) -> None:
    server = start("--key", KEY)
    assert run_client(lambda: add_one(server.connect(key=KEY), kernels)) == RIGHT
    with pytest.raises(ClientError, match="cannot find server that matches key"):
        run_client(lambda: server.connect())


def test_the_next_free_port_is_taken(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert port < start("--port", str(port), "--port-end", str(port + 20)).port < port + 20


def test_no_free_port(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        _assert_refused(server_command(kind, "--port", port, "--port-end", port), "cannot listen on 127.0.0.1, ports")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--tracker", "127.0.0.1:9190"], "--tracker needs --key"),
        (["--tracker", "9190", "--key", "a"], "HOST:PORT"),
        (["--key", "with space"], "may hold only"),
        (["--allow", "everybody"], "--allow"),
        (["--allow", "10.0.0.0/33"], "/33"),
        (["--work-dir", "/proc"], "/proc"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    ],
)
def test_options_that_cannot_be(kind: str, options: list[str], complaint: str) -> None:
    _assert_refused(server_command(kind, *options), complaint)


def test_it_listens_on_this_machine_alone(kind: str, start: Start) -> None:
    server = start()
    listening = Path("/proc/net/tcp").read_text()
    assert f" 0100007F:{server.port:04X} 00000000:0000 0A" in listening


def test_who_listens_to_everybody_is_warned(start: Start, kernels: Path) -> None:
    server = start("--host", "0.0.0.0")
    assert run_client(lambda: add_one(server.connect(), kernels)) == RIGHT
    assert "use --allow, or an SSH tunnel" in server.log
    assert "use --allow, or an SSH tunnel" not in start("--host", "0.0.0.0", "--allow", "127.0.0.1").log


def test_a_work_folder_that_is_gone_costs_one_session(start: Start, kernels: Path) -> None:
    server = start()
    server.work_dir.rmdir()
    with pytest.raises(ClientError):
        run_client(lambda: add_one(server.connect(), kernels))
    server.wait_for_log("not served")
    server.work_dir.mkdir()
    assert run_client(lambda: add_one(server.connect(), kernels)) == RIGHT


def test_ipv6(start: Start, kernels: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = start("--host", "::1", "--allow", "::1")
    from tvm import rpc

    assert run_client(lambda: add_one(rpc.connect("::1", server.port), kernels)) == RIGHT


def test_a_tracker_gives_the_board_out_again_and_again(start: Start, kernels: Path, tracker: Tracker) -> None:
    server = start("--tracker", f"127.0.0.1:{tracker.port}", "--key", KEY)
    assert run_client(lambda: add_one(tracker.request(KEY), kernels)) == RIGHT
    with pytest.raises(ClientError, match="signal 11"):
        run_client(lambda: call(tracker.request(KEY), kernels, "segfault"))
    with pytest.raises(ClientError, match="RPCSessionTimeoutError"):
        run_client(lambda: call(tracker.request(KEY, session_timeout=1), kernels, "hang"))
    assert run_client(lambda: add_one(tracker.request(KEY), kernels)) == RIGHT
    wait_until(lambda: tracker.free(KEY) == 1, "the board's offer")
    assert server.stop() == 0
    wait_until(lambda: tracker.free(KEY) == 0, "the end of the board's offer")


def test_a_tracker_goes_and_comes_back(start: Start, kernels: Path, tracker: Tracker) -> None:
    server = start("--tracker", f"127.0.0.1:{tracker.port}", "--key", KEY)
    assert run_client(lambda: add_one(tracker.request(KEY), kernels)) == RIGHT
    tracker.kill()
    server.wait_for_log("no tracker at")
    tracker.start()
    assert run_client(lambda: add_one(tracker.request(KEY), kernels)) == RIGHT
    wait_until(lambda: server.log.count("registered with tracker") == 2, "its second offer")


def test_a_tracker_goes_and_comes_back_during_a_session(start: Start, kernels: Path, tracker: Tracker) -> None:
    server = start("--tracker", f"127.0.0.1:{tracker.port}", "--key", KEY)
    server.wait_for_log("registered")

    def client() -> list[float]:
        remote = tracker.request(KEY)
        tracker.kill_from_elsewhere()
        return add_one(remote, kernels)

    assert run_client(client) == RIGHT
    tracker.kill()
    tracker.start()
    assert run_client(lambda: add_one(tracker.request(KEY), kernels)) == RIGHT


def test_a_client_that_gets_the_board_and_does_not_come_loses_it(tmp_path: Path, tracker: Tracker) -> None:
    kinds = ["cpp", "python"]
    options = ["--tracker", f"127.0.0.1:{tracker.port}", "--key"]
    servers = [Server(server_command(kind, *options, kind), tmp_path / kind) for kind in kinds]
    try:
        for kind, server in zip(kinds, servers, strict=True):
            server.wait_for_log("registered")
            address, port, match_key = run_client(partial(tracker.match_key, kind))
            assert (address, port) == ("127.0.0.1", server.port)
            assert match_key.startswith(f"{kind}:")
        for kind in kinds:
            wait_until(partial(tracker.free, kind), "a new offer")
    finally:
        for server in servers:
            server.kill()


def test_a_tracker_may_come_later(start: Start, kernels: Path, tracker: Tracker) -> None:
    tracker.kill()
    server = start("--tracker", f"127.0.0.1:{tracker.port}", "--key", KEY)
    server.wait_for_log("no tracker at")
    tracker.start()
    assert run_client(lambda: add_one(tracker.request(KEY), kernels)) == RIGHT


def test_with_a_tracker_its_key_alone_opens(start: Start, tracker: Tracker) -> None:
    server = start("--tracker", f"127.0.0.1:{tracker.port}", "--key", KEY)
    server.wait_for_log("registered")
    for key in (KEY, ""):
        with pytest.raises(ClientError, match="cannot find server that matches key"):
            run_client(partial(server.connect, key))


def test_clients_are_sent_to_the_custom_address(start: Start, tracker: Tracker) -> None:
    server = start("--tracker", f"127.0.0.1:{tracker.port}", "--key", KEY, "--custom-addr", "127.0.0.2")
    server.wait_for_log("registered")
    assert tracker.summary()["server_info"] == [{"key": f"server:{KEY}", "addr": ["127.0.0.2", server.port]}]


def test_errors_pass_through_what_zig_compiled(tmp_path: Path, kernels: Path) -> None:
    """It brings a C++ library of its own: exceptions must not meet that of TVM's libraries."""
    pytest.importorskip("ziglang", reason="the wheel ziglang is not installed")
    server = Server(server_command("zig"), tmp_path)
    try:
        with pytest.raises(ClientError, match="this kernel says no"):
            run_client(lambda: call(server.connect(), kernels, "fail"))
        with pytest.raises(ClientError, match="session's work folder"):
            run_client(lambda: server.connect().upload(bytearray(b"x"), "../stray"))
        with pytest.raises(ClientError, match="not uploaded in this session"):
            run_client(lambda: server.connect().load_module("absent.so"))
        with pytest.raises(ClientError, match="signal 11"):
            run_client(lambda: call(server.connect(), kernels, "segfault"))
        assert run_client(lambda: add_one(server.connect(), kernels)) == RIGHT
        assert server.log.count("killed") == 1
    finally:
        server.kill()


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _assert_refused(command: list[str], complaint: str) -> None:
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=environment)
    assert done.returncode in (1, 2)
    assert complaint in done.stderr
