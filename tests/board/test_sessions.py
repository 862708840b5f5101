"""Whatever a client or its kernels do, the next client is served."""

from __future__ import annotations

import os
import platform
import signal
import socket
import struct
import time
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from softneuro_tvm.device import available_cores
from tests.support.board import (
    Client,
    ClientError,
    Server,
    add_one,
    call,
    describe,
    is_running,
    run_client,
    server_command,
    shake_hands,
    wait_until,
)

RIGHT = [1.0, 2.0, 3.0, 4.0]


def assert_usable(server: Server, kernels: Path) -> None:
    """A further client is served, and nothing is left of those before."""
    start = len(server.log)
    assert run_client(lambda: add_one(server.connect(), kernels)) == RIGHT
    server.wait_for_log("ended normally", start)
    assert not list(server.work_dir.iterdir())


def test_computes_and_cleans_up(server: Server, kernels: Path) -> None:
    start = len(server.log)
    assert run_client(lambda: add_one(server.connect(), kernels)) == RIGHT
    server.wait_for_log(r"session \d+: 127.0.0.1:\d+, [\d.]+ s, ended normally", start)
    assert not list(server.work_dir.iterdir())


def test_an_error_does_not_end_the_session(server: Server, kernels: Path) -> None:
    def client() -> tuple[str, list[float]]:
        remote = server.connect()
        try:
            call(remote, kernels, "fail")
        except Exception as error:
            return f"{type(error).__name__}: {error}", add_one(remote, kernels)
        raise AssertionError("no error")

    message, result = run_client(client)
    assert "this kernel says no" in message
    assert result == RIGHT


@pytest.mark.parametrize(
    ("kernel", "cause"), [("segfault", r"signal 11 \("), ("abort", r"signal 6 \("), ("leave", "exit code 3")]
)
def test_crashes_end_the_session_alone(server: Server, kernels: Path, kernel: str, cause: str) -> None:
    start = len(server.log)
    with pytest.raises(ClientError, match=f"RPCError.*(?s:.)*{cause}"):
        run_client(lambda: call(server.connect(), kernels, kernel))
    server.wait_for_log(f"session [^\n]* s, (killed by )?{cause}", start)
    assert_usable(server, kernels)


def test_a_hanging_kernel_is_killed_when_the_client_said_so(server: Server, kernels: Path) -> None:
    start = len(server.log)
    with pytest.raises(ClientError, match="RPCSessionTimeoutError"):
        run_client(lambda: call(server.connect(session_timeout=1), kernels, "hang"))
    server.wait_for_log("killed: timeout of 1 s", start)
    assert_usable(server, kernels)


def test_a_client_that_dies_does_not_keep_the_board(server: Server, kernels: Path) -> None:
    start = len(server.log)
    server.hang(kernels).kill()
    server.wait_for_log("killed: the client is gone", start)
    assert_usable(server, kernels)


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_client_that_dies_in_the_middle_of_an_upload(server: Server, kernels: Path, is_reset: bool) -> None:
    start = len(server.log)
    with shake_hands(server.port) as connection:
        connection.sendall(struct.pack("<Q", 1 << 20) + bytes(1000))
        if is_reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.wait_for_log("session .* s, (ended|killed|exit)", start)
    assert_usable(server, kernels)


def test_garbage_ends_the_session_alone(server: Server, kernels: Path) -> None:
    start = len(server.log)
    with shake_hands(server.port) as connection:
        connection.sendall(struct.pack("<Q", 64) + bytes(range(64)))
        server.wait_for_log(r"session \d+: .* timeout 0 s", start)
    server.wait_for_log("session .* s, (ended|killed|exit)", start)
    assert_usable(server, kernels)


@pytest.mark.parametrize("name", ["../stray", "folder/../../stray", "/tmp/softneuro-stray.so", "..", ".", ""])
def test_names_outside_the_folder_are_refused(server: Server, kernels: Path, name: str) -> None:
    def refused(function: Any, *arguments: Any) -> str:
        try:
            function(*arguments)
        except Exception as error:
            return str(error)
        raise AssertionError("not refused")

    def client() -> list[str]:
        remote = server.connect()
        upload = remote.get_function("tvm.rpc.server.upload")
        messages = [refused(upload, name, bytearray(b"x")), refused(remote.download, name)]
        return [*messages, refused(remote.remove, name), refused(remote.load_module, name)]

    for message in run_client(client):
        assert "session's work folder" in message
    assert not (server.work_dir / "stray").exists()
    assert not Path("/tmp/softneuro-stray.so").exists()


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("kernels.so", lambda data: data[:-1000], "was cut off"),
        ("kernels.so", lambda data: data[:2000], "was cut off"),
        ("kernels.so", lambda data: data[:40], "was cut off"),
        ("kernels.so", lambda data: data[:18] + b"\x08\x00" + data[20:], "built for another processor"),
        ("kernels.so", lambda data: b"#!" + data[2:], "no ELF shared library"),
        ("kernels.tar", lambda data: data, "nothing is linked here"),
    ],
)
def test_files_that_cannot_be_loaded_say_why(
    server: Server, kernels: Path, name: str, change: Any, complaint: str
) -> None:
    def client() -> tuple[str, list[float]]:
        remote = server.connect()
        remote.upload(bytearray(change(kernels.read_bytes())), name)
        try:
            remote.load_module(name)
        except Exception as error:
            return str(error), add_one(remote, kernels)
        raise AssertionError("it was loaded")

    message, result = run_client(client)
    assert complaint in message
    assert result == RIGHT


def test_a_file_that_is_missing(server: Server) -> None:
    with pytest.raises(ClientError, match="not uploaded in this session"):
        run_client(lambda: server.connect().load_module("absent.so"))


def test_what_a_kernel_starts_ends_with_its_session(server: Server, kernels: Path) -> None:
    start = len(server.log)
    process = run_client(lambda: call(server.connect(), kernels, "start_process"))
    server.wait_for_log("ended normally", start)
    wait_until(lambda: not is_running(process), "the end of what the kernel has started")


def test_sessions_come_one_after_the_other(server: Server, kernels: Path) -> None:
    start = len(server.log)
    first = server.hang(kernels)
    second = Client(lambda: add_one(server.connect(session_timeout=1000), kernels))
    first.kill()
    assert second.result() == RIGHT
    server.wait_for_log("ended normally", start)
    lines = [line for line in server.log[start:].splitlines() if "session" in line]
    told = ["timeout 0 s", "killed: the client is gone", "timeout 1000 s", "ended normally"]
    assert [text in line for text, line in zip(told, lines, strict=True)] == [True] * 4


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", struct.pack("<ii", 0xFF271, 1 << 30), b""])
def test_strangers_are_sent_away(server: Server, kernels: Path, data: bytes) -> None:
    start = len(server.log)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(data)
        with suppress(OSError):  # it may be sent away by now
            connection.shutdown(socket.SHUT_WR)
        server.wait_for_log("refused 127.0.0.1:", start)
    assert_usable(server, kernels)


def test_who_says_nothing_is_sent_away(server: Server, kernels: Path) -> None:
    with socket.create_connection(("127.0.0.1", server.port)):
        assert_usable(server, kernels)


def test_a_wrong_key_is_refused(server: Server, kernels: Path) -> None:
    with pytest.raises(ClientError, match="cannot find server that matches key"):
        run_client(lambda: server.connect(key="other"))
    assert_usable(server, kernels)


def test_the_session_has_no_stray_descriptors(server: Server, kernels: Path) -> None:
    client = server.hang(kernels)
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    assert len(children) == 1
    sockets = [
        target
        for link in Path(f"/proc/{children[0]}/fd").iterdir()
        if (target := os.readlink(link)).startswith("socket:")
    ]
    os.kill(int(children[0]), signal.SIGKILL)
    with pytest.raises(ClientError):
        client.result()
    assert len(sockets) <= 1


def test_the_board_describes_itself(server: Server) -> None:
    from softneuro_tvm.device import host_device

    info = run_client(lambda: describe(server))
    here = host_device()
    assert (info["machine"], info["part"], info["cores"]) == (platform.machine(), here.part, here.threads)
    assert frozenset(info["features"]) == here.features
    for name in ("l1_bytes", "l2_bytes", "l3_bytes"):
        assert info.get(name, getattr(here, name)) == getattr(here, name)
    assert info["tvm"] == version("apache-tvm")
    assert info["memory_free_bytes"] > 1 << 20
    assert info["time_s"] == pytest.approx(time.time(), abs=60)


def test_kernels_may_use_all_cores(server: Server) -> None:
    found = run_client(lambda: server.connect().get_function("runtime.NumThreads")())
    assert found == available_cores()


def test_both_servers_say_the_same(tmp_path: Path) -> None:
    answers = []
    for kind in ("cpp", "python"):
        server = Server(server_command(kind), tmp_path / kind)
        try:
            answers.append(run_client(partial(describe, server)))
        finally:
            server.kill()
    changing = {"time_s", "memory_free_bytes", "frequency_hz", "temperature_c"}
    first, second = ({name: value for name, value in answer.items() if name not in changing} for answer in answers)
    assert first == second
