"""Linking for other machines: by which compiler, and what is noticed about the result."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import pytest

from softneuro_tvm import linking
from softneuro_tvm.elf_header import damage, machine_of
from softneuro_tvm.errors import BuildError
from softneuro_tvm.linking import CROSS_COMPILER_VARIABLE, linker, linker_command

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="looks at x86 ELF")


@pytest.fixture
def objects(tmp_path: Path) -> dict[str, Path]:
    """An object file for each of two machines."""
    from softneuro_tvm import codegen
    from softneuro_tvm.remote.driver import byte_functions

    found = {}
    for machine in ("x86_64", "aarch64"):
        target = {"kind": "llvm", "mtriple": f"{machine}-linux-gnu"}
        found[machine] = tmp_path / f"{machine}.o"
        found[machine].write_bytes(codegen.compile_object(byte_functions()[0], target))
    return found


def test_objects_tell_their_machine(objects: dict[str, Path], tmp_path: Path) -> None:
    assert {machine: machine_of(path) for machine, path in objects.items()} == {
        "x86_64": "x86_64",
        "aarch64": "aarch64",
    }
    (tmp_path / "text").write_text("no library")
    assert machine_of(tmp_path / "text") is None


def _compilers() -> list[str]:
    found = ["aarch64-linux-gnu-gcc"] if shutil.which("aarch64-linux-gnu-gcc") else []
    return [*found, f"{sys.executable} -m ziglang cc -nostdlib -target aarch64-linux-gnu"] if _has_zig() else found


def _has_zig() -> bool:
    return linking.importlib.util.find_spec("ziglang") is not None


@pytest.mark.skipif(not _compilers(), reason="neither a cross compiler nor ziglang is installed")
@pytest.mark.parametrize("command", _compilers() or [""])
def test_the_objects_choose_the_compiler(
    objects: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv(CROSS_COMPILER_VARIABLE, command)
    source = tmp_path / "more.c"
    source.write_text("int more(void) { return 1; }\n")
    link = linker()
    for machine, path in objects.items():
        library = tmp_path / f"{machine}.so"
        link(str(library), [str(path), str(source)])
        assert machine_of(library) == machine and damage(library, machine) == ""


def test_the_compiler_is_named_by_option_debian_or_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    present: set[str] = set()
    monkeypatch.setattr(linking.shutil, "which", lambda name: name if name in present else None)
    monkeypatch.setattr(linking.importlib.util, "find_spec", lambda name: object())
    assert linker_command("aarch64") == []
    present.add(sys.executable)
    assert linker_command("aarch64")[-3:] == ["-nostdlib", "-target", "aarch64-linux-gnu"]
    present.add("aarch64-linux-gnu-gcc")
    assert linker_command("aarch64") == ["aarch64-linux-gnu-gcc"]
    present.add("mycc")
    monkeypatch.setenv(CROSS_COMPILER_VARIABLE, "mycc --sysroot=/pi")
    assert linker_command("aarch64") == ["mycc", "--sysroot=/pi"]


def test_a_missing_cross_compiler_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking.shutil, "which", lambda name: None)
    monkeypatch.delenv(CROSS_COMPILER_VARIABLE, raising=False)
    with pytest.raises(
        BuildError, match=r"links for aarch64 .*apt-get install gcc-aarch64-linux-gnu.*--cross-compiler"
    ):
        linker("aarch64")
    with pytest.raises(BuildError, match=r"links for mips was found: `pip install ziglang`"):
        linker("mips")


def test_damage_is_found(objects: dict[str, Path], tmp_path: Path) -> None:
    library = tmp_path / "whole.so"
    linker()(str(library), [str(objects["x86_64"])])
    data = library.read_bytes()
    assert damage(library, "x86_64") == ""
    assert "is for x86_64, not for aarch64" in damage(library, "aarch64")
    assert "no shared library" in damage(objects["x86_64"], "x86_64")
    cut = tmp_path / "cut.so"
    for size in (30, 100, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:size])
        assert "cut off" in damage(cut, "x86_64"), size
    cut.write_bytes(b"no library at all" * 10)
    assert "no ELF file" in damage(cut, "x86_64")
