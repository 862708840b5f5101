"""Pins what the package offers, and that a bare import is cheap."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import softneuro_tvm

ROOT = Path(softneuro_tvm.__file__).parents[1]


def test_public_names() -> None:
    assert softneuro_tvm.__all__ == [
        "Board",
        "Device",
        "Graph",
        "Model",
        "Module",
        "Plan",
        "SoftNeuroError",
        "build",
        "host_device",
        "load",
        "load_device",
        "load_module",
        "tune",
        "verify",
    ]
    for name in softneuro_tvm.__all__:
        assert getattr(softneuro_tvm, name).__doc__


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = softneuro_tvm.nothing


@pytest.mark.parametrize(
    "module",
    ["graph", "formats", "activations", "plan", "selection", "registry", "candidates", "zoo", "profiler.store"],
)
def test_what_needs_no_tvm_does_not_import_it(module: str) -> None:
    code = f"import sys, softneuro_tvm.{module}; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_wheel_holds_every_module(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    source = tmp_path / "source"  # a copy, because building leaves files behind
    for name in ("softneuro_tvm", "routines"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run([*command, str(source)], check=True, cwd=tmp_path)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if name.endswith((".py", ".npz", ".typed"))}
    expected = {
        str(path.relative_to(ROOT)) for path in (ROOT / "softneuro_tvm").rglob("*") if path.suffix in (".py", ".npz")
    }
    expected |= {f"softneuro_tvm/{path.relative_to(ROOT)}" for path in (ROOT / "routines").rglob("*.py")}
    assert packed == expected | {"softneuro_tvm/py.typed"}
