"""`softneuro-tvm db` from its command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from softneuro_tvm.cli.db import app
from softneuro_tvm.errors import StoreError
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler.keys import Key
from softneuro_tvm.profiler.store import ProfileStore

KEY = Key('{"kind":"conv2d"}', "conv2d/none", "", "in -> out", "abc", "{}", "part", 2, "0.27", "dram")


def db(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(done.exception, StoreError):
        raise done.exception
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout


def values(*arguments: object, code: int = 0) -> dict[str, Any]:
    found = json.loads(db(*arguments, "--json", code=code))
    assert isinstance(found, dict)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with ProfileStore(tmp_path / "one.sqlite", fingerprint={"part": "processor", "digest": "1"}) as store:
        store.put(KEY, Measurement("ok", (1e-6,), 0.0))
    return tmp_path / "one.sqlite"


def test_info_and_check(path: Path) -> None:
    text = db("info", "--tuning-records", path)
    assert "1 ok" in text
    assert "processor" in text
    found = values("check", "--tuning-records", path)
    assert (found["sound"], found["records"], found["outdated"], found["damage"]) == (True, 1, 1, [])
    assert "sound" in db("check", "--tuning-records", path)


def test_a_damaged_store_is_reported_and_repaired(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9000])
    before = path.read_bytes()
    assert "db check --repair" in db("check", "--tuning-records", path, code=1)
    assert not values("check", "--tuning-records", path, code=1)["sound"]
    assert path.read_bytes() == before
    assert values("check", "--repair", "--tuning-records", path)["sound"]
    assert path.with_name("one.sqlite.corrupt-1").read_bytes() == before


def test_export_import_merge_prune(path: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "records.jsonl.gz", tmp_path / "two.sqlite"
    assert values("export", file, "--tuning-records", path)["records"] == 1
    assert "1 record(s) written" in db("export", file, "--tuning-records", path)
    assert values("import", file, "--tuning-records", other)["new"] == 1
    assert "1 already known" in db("import", file, "--tuning-records", other)
    assert values("merge", path, other, "--tuning-records", tmp_path / "three.sqlite")["same"] == 1
    assert values("prune", "--older-than", 1, "--tuning-records", other)["removed"] == 0
    assert "1 record(s) removed" in db("prune", "--outdated", "--tuning-records", other)


def test_lines_left_out_are_named_and_change_the_exit_code(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    db("export", file, "--tuning-records", path)
    file.write_text(file.read_text() + "[broken]\n")
    assert "line 3: " in db("import", file, "--tuning-records", tmp_path / "two.sqlite", code=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("info",), "no profile store"),
        (("check",), "no profile store"),
        (("check", "--repair"), "no profile store"),
        (("export", "x.jsonl"), "no profile store"),
        (("prune", "--outdated"), "no profile store"),
        (("prune",), "--older-than DAYS"),
        (("import", "absent.jsonl"), "absent.jsonl"),
        (("merge", "absent.sqlite"), "absent.sqlite"),
    ],
)
def test_errors_say_what_is_wrong(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(StoreError, match=said):
        db(*arguments, "--tuning-records", tmp_path / "absent" / "one.sqlite")
