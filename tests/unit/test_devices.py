from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from softneuro_tvm.cli import app
from softneuro_tvm.cli.board_options import chosen_board
from softneuro_tvm.device import Device, architecture, check_local, from_json, host_device, to_json
from softneuro_tvm.devices import known_devices, load_device, read_device
from softneuro_tvm.errors import BoardError, DeviceError, SoftNeuroError
from softneuro_tvm.fingerprint import fingerprint
from softneuro_tvm.remote.board import Board, find_board, parse_address
from softneuro_tvm.remote.facts import board_fingerprint, device_on

ARM = Device("cortex-a76", {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}, "A76", 4, features=frozenset(("asimd",)))
BOARD = Board(server=("10.0.0.7", 9090))


@pytest.mark.parametrize("name", known_devices())
def test_described_devices_are_plausible_and_known_to_llvm(name: str) -> None:
    import tvm

    described = known_devices()[name]
    device = load_device(name)
    assert described.description and device.threads == described.cores
    assert 16 << 10 <= device.l1_bytes < device.l2_bytes <= device.l3_bytes
    assert device.machine == ("x86_64" if name.startswith("x86") else "aarch64")
    names = {
        str(cpu) for cpu in tvm.get_global_func("target.llvm_get_cpu_archlist")(tvm.target.Target(dict(device.target)))
    }
    assert device.target["mcpu"] in names
    lanes = load_device(json.dumps(dict(device.target)))
    assert (lanes.vector_lanes, lanes.vector_registers, lanes.fma) == (
        device.vector_lanes,
        device.vector_registers,
        device.fma,
    )


def test_devices_by_file_json_tag_and_host(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('part = "X"\ncores = 3\nl2_bytes = 1_000_000\n[target]\nkind = "llvm"\nmcpu = "cortex-a55"\n')
    mine = load_device(str(path))
    assert (mine.name, mine.part, mine.threads, mine.l2_bytes, mine.target["mcpu"]) == (
        ("mine", "X", 3, 1_000_000, "cortex-a55")
    )
    assert load_device(str(path), 2).threads == 2
    tag = load_device("raspberry-pi/4b-aarch64")
    assert dict(tag.target) == {
        "kind": "llvm",
        "mtriple": "aarch64-linux-gnu",
        "mcpu": "cortex-a72",
        "mattr": ["+neon"],
    }
    assert (tag.threads, tag.vector_lanes, tag.machine) == (4, 4, "aarch64")
    assert load_device() == host_device() and load_device("host", 1) == host_device(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cortex-a67", r"did you mean 'cortex-a76'\?; there are host, cortex-a53"),
        ("nonsense/tag", "TVM does not know the target"),
        ('{"kind": "cuda"}', "only llvm is supported|does not know"),
        ("{kind", "is no JSON"),
        ("missing.toml", "missing.toml"),
    ],
)
def test_unknown_devices_are_explained(text: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        load_device(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\n[target]\nkind = 'llvm'", "'a' is unknown"),
        ("cores = '4'\n[target]\nkind = 'llvm'", "'cores' must be of type int"),
        ("cores = true\n[target]\nkind = 'llvm'", "'cores' must be of type int"),
        ("cores = 4", r"table \[target\]"),
        ("cores = ", "mine.toml"),
    ],
)
def test_bad_device_files_are_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(DeviceError, match=message):
        read_device(path)


def test_a_device_survives_a_plan() -> None:
    assert from_json(json.loads(json.dumps(to_json(ARM)))) == ARM
    host = host_device(1)
    assert from_json(to_json(host)) == host and set(to_json(host)) == {"name", "target", "part", "threads"}
    with pytest.raises(DeviceError, match="made for"):
        from_json({**to_json(host), "target": {"kind": "llvm", "mcpu": "other"}})


def test_what_does_not_run_here_needs_a_board() -> None:
    check_local(host_device())
    foreign = {"x86_64": "aarch64", "aarch64": "x86_64"}[architecture({})]
    with pytest.raises(DeviceError, match="measure on a board"):
        check_local(replace(ARM, target={"kind": "llvm", "mtriple": f"{foreign}-linux-gnu"}))
    with pytest.raises(DeviceError, match="lacks quantum"):
        check_local(replace(host_device(), name="mine", features=frozenset(("quantum",))))


def test_a_board_says_what_it_is() -> None:
    facts = {"part": "ARM r4p1", "machine": "aarch64", "features": ["asimd", "fphp"], "l2_bytes": 1 << 19, "cores": 4}
    there = device_on(BOARD, ARM, {**facts, "governor": "ondemand", "tvm": "0.27.1"})
    assert (there.part, there.l2_bytes, there.l3_bytes) == ("ARM r4p1", 1 << 19, ARM.l3_bytes)
    found = board_fingerprint(there, {**facts, "governor": "ondemand", "tvm": "0.27.1"})
    assert (found["governor"], found["tvm"], found["cores"], found["part"]) == ("ondemand", "0.27.1", 4, "ARM r4p1")
    assert set(found) == set(fingerprint(host_device()))
    assert device_on(BOARD, ARM, {}).part == "A76 (10.0.0.7:9090)"
    with pytest.raises(BoardError, match="is of the kind x86_64"):
        device_on(BOARD, ARM, {"machine": "x86_64"})
    with pytest.raises(BoardError, match=r"lacks asimd"):
        device_on(BOARD, ARM, {"features": ["fp"]})


def test_boards_by_options_and_environment() -> None:
    assert find_board(environment={}) is None
    assert find_board("pi.local:9190", "rpi4", environment={}) == Board(("pi.local", 9190), "rpi4")
    assert find_board(server="[::1]:9090", environment={}) == Board(server=("::1", 9090))
    environment = {"TVM_TRACKER_HOST": "t", "TVM_TRACKER_PORT": "91", "TVM_TRACKER_KEY": "k"}
    assert find_board(environment=environment) == Board(("t", 91), "k")
    assert find_board(key="other", environment=environment) == Board(("t", 91), "other")
    for arguments in (("t:1", None, None), ("t:1", "k", "s:2"), (None, "k", None), ("nowhere", "k", None)):
        with pytest.raises(DeviceError, match="--rpc-"):
            find_board(*arguments, environment={})
    with pytest.raises(DeviceError, match="either a tracker"):
        Board()
    with pytest.raises(DeviceError, match=r"127\.0\.0\.1:9190"):
        parse_address("--rpc-server", "host:99999")


RUNNER = CliRunner()


def test_devices_are_listed() -> None:
    listed = json.loads(RUNNER.invoke(app, ["devices", "--json"]).stdout)["devices"]
    assert {row["name"] for row in listed} == set(known_devices())
    for row in listed:
        assert from_json(row) == load_device(row["name"])
    assert "raspberry-pi-5" in RUNNER.invoke(app, ["devices"]).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rpc", "check"], "which board"),
        (["rpc", "check", "--rpc-key", "k"], "--rpc-key needs --rpc-tracker"),
        (["rpc", "check", "--rpc-server", "nowhere"], "write it like"),
        (["tune", "zoo:digits", "--target", "cortex-a67"], "there is no device"),
        (["tune", "zoo:digits", "--rpc-tracker", "a:1"], "Name their key"),
    ],
)
def test_what_is_missing_is_said(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TVM_TRACKER_HOST", "TVM_TRACKER_PORT", "TVM_TRACKER_KEY"):
        monkeypatch.delenv(name, raising=False)
    error = RUNNER.invoke(app, arguments).exception
    assert isinstance(error, SoftNeuroError) and message in str(error)


def test_the_environment_counts_only_where_nothing_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_TRACKER_HOST", "t")
    monkeypatch.setenv("TVM_TRACKER_KEY", "k")
    assert chosen_board(None, None, None, None, elsewhere=False) is None
    assert chosen_board(None, None, None, 200.0, elsewhere=True) == Board(("t", 9190), "k", session_timeout_s=200.0)
    assert chosen_board(None, "pi", None, None, elsewhere=False) == Board(("t", 9190), "pi")
