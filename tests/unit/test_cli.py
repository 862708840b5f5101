"""The command line without measuring: help, options, errors and exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from softneuro_tvm.cli.options import parse_input_shapes
from softneuro_tvm.cli.run import _read
from softneuro_tvm.errors import DynamicShapeError, ModelError


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "softneuro_tvm", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("x:[1,3,224,224]", {"x": [1, 3, 224, 224]}),
        ("x:[1, 3] y.1:[2]", {"x": [1, 3], "y.1": [2]}),
        ("x:[1,3],y:[]", {"x": [1, 3], "y": []}),
        (None, None),
    ],
)
def test_input_shapes(text: str | None, shapes: dict[str, list[int]] | None) -> None:
    assert parse_input_shapes(text) == shapes


@pytest.mark.parametrize("text", ["x", "x:1,3", "x:[1,a]", "[1]"])
def test_malformed_input_shapes(text: str) -> None:
    with pytest.raises(DynamicShapeError, match="input-shapes"):
        parse_input_shapes(text)


def test_help_names_every_command() -> None:
    done = command("--help")
    assert done.returncode == 0
    for name in ("tune", "run", "bench", "inspect", "routines", "explain", "doctor"):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("tune", "absent.onnx"), "absent.onnx"),
        (("tune", "zoo:resnet81"), "resnet18"),
        (("tune", "zoo:digits", "-o", "/nowhere/x.so"), "cannot write '/nowhere/x.so'"),
        (("run", "absent.so"), "absent.so"),
        (("explain", "absent.json"), "absent.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(arguments: tuple[str, ...], named: str) -> None:
    done = command(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_a_corrupt_library_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.so"
    path.write_bytes(b"\x7fELF" + bytes(100))
    done = command("run", str(path))
    assert done.returncode == 1
    assert "build it again" in done.stderr
    assert "Traceback" not in done.stderr


def test_zoo_names_are_listed() -> None:
    done = command("inspect", "zoo:")
    assert "zoo:resnet18" in done.stdout


def test_inputs_that_are_no_arrays_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"x\.npy: not arrays"):
        _read([tmp_path / "x.npy"])
    with pytest.raises(ModelError, match=r"absent\.npy"):
        _read([tmp_path / "absent.npy"])
