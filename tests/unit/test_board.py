"""What the servers of boards are told, what they look at, and what compiles them; without starting one."""

from __future__ import annotations

import importlib.util
import struct
import sys
from pathlib import Path

import pytest

from softneuro_tvm.board.compiling import build_server, find_compiler
from softneuro_tvm.board.module_file import check_library, check_name, own_architecture
from softneuro_tvm.board.options import ServerOptions, is_allowed, parse_networks, parse_tracker, shorter
from softneuro_tvm.board.runtimes import runtime_for
from softneuro_tvm.errors import BuildError, DeviceError, OptionError


def test_trackers() -> None:
    assert parse_tracker(None) is None
    assert parse_tracker("10.0.0.1:9190") == ("10.0.0.1", 9190)
    assert parse_tracker("fd00::1:9190") == ("fd00::1", 9190)
    for text in ("host", "host:", ":9190", "host:port"):
        with pytest.raises(OptionError, match="HOST:PORT"):
            parse_tracker(text)


@pytest.mark.parametrize("key", ["two words", 'quo"te', "back\\slash", "tab\t", "é"])
def test_keys_that_cannot_be_sent(key: str) -> None:
    with pytest.raises(OptionError, match="--key"):
        ServerOptions(key=key)


@pytest.mark.parametrize(
    ("address", "networks", "allowed"),
    [
        ("10.1.2.3", [], True),
        ("10.1.2.3", ["10.1.2.3"], True),
        ("10.1.2.4", ["10.1.2.3"], False),
        ("10.1.2.255", ["10.1.2.3/24"], True),
        ("10.1.3.1", ["10.1.2.0/24", "10.1.3.0/31"], True),
        ("10.1.3.2", ["10.1.2.0/24", "10.1.3.0/31"], False),
        ("::ffff:10.1.2.3", ["10.1.2.0/24"], True),
        ("fd00::1", ["10.0.0.0/8", "fd00::/8"], True),
        ("fe80::1%eth0", ["fe80::/10"], True),
        ("fe80::1", ["fd00::/8"], False),
    ],
)
def test_allowed_addresses(address: str, networks: list[str], allowed: bool) -> None:
    assert is_allowed(address, parse_networks(networks)) is allowed


def test_no_timeout_is_longer_than_any() -> None:
    assert [shorter(*pair) for pair in ((0, 0), (0, 5), (5, 0), (3, 5), (5, 3))] == [0, 5, 5, 3, 3]


def test_names() -> None:
    check_name("module.so")
    check_name("..module.so")
    for name in ("", ".", "..", "a/b", "/a", "../a", "a\0b"):
        with pytest.raises(ValueError, match="work folder"):
            check_name(name)


@pytest.mark.parametrize("bits", [32, 64])
def test_libraries_that_were_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    wide = bits == 64
    monkeypatch.setattr("softneuro_tvm.board.module_file.own_architecture", lambda: (2 if wide else 1, 40))
    numbers, header_size, part_size = ("QQ", 64, 56) if wide else ("II", 52, 32)
    header = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9) + struct.pack("<HHI", 3, 40, 1)
    header += bytes(8 if wide else 4) + struct.pack("<" + numbers, header_size, 0) + bytes(4)
    header += struct.pack("<6H", header_size, part_size, 1, 0, 0, 0)
    size, first = 500, 200
    if wide:
        part = struct.pack("<IIQQQQQQ", 1, 5, first, 0, 0, size, size, 4096)
    else:
        part = struct.pack("<8I", 1, first, 0, 0, size, size, 5, 4096)
    data = (header + part).ljust(first, b"\0") + bytes(size)
    library = tmp_path / "library.so"
    library.write_bytes(data)
    check_library(library)
    for length in (len(data) - 1, first, header_size + 10):
        library.write_bytes(data[:length])
        with pytest.raises(ValueError, match="was cut off"):
            check_library(library)


def test_this_machine_is_known() -> None:
    assert own_architecture()[0] == (2 if sys.maxsize > 2**32 else 1)


def test_without_any_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BuildError, match=r"pip install ziglang.*apt-get install g\+\+-aarch64-linux-gnu"):
        find_compiler("aarch64")
    with pytest.raises(BuildError, match="no c compiler"):
        find_compiler(language="c")


def test_the_named_compiler_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "my-c++"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("CXX", f"{program} -O3")
    assert find_compiler() == [str(program), "-O3"]


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BuildError, match="compiling the server failed: false"):
        build_server(compiler=["false"])
    assert not list(tmp_path.rglob("server-*"))


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="exists"):
        build_server(folder=tmp_path)


def test_machines_without_wheels() -> None:
    with pytest.raises(DeviceError, match=r"no wheels for 'sparc'.*aarch64"):
        runtime_for("sparc")
