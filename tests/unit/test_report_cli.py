"""`softneuro-tvm report` on plan files."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import typer
from onnx import TensorProto, helper
from typer.testing import CliRunner, Result

from softneuro_tvm.cli.report import report
from softneuro_tvm.errors import BuildError, ModelError, PlanError
from tests.support.made_up_plans import layer, plan


def command(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(report)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "net1.5.plan.json"
    plan((layer("conv", 0, "x"),)).save(path)
    return path


def save_model(path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    node = helper.make_node("Relu", ["x"], ["y"], name="conv")
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y])), path)


def test_the_page_stands_beside_the_plan_by_default(plan_file: Path) -> None:
    done = command(plan_file)
    assert done.exit_code == 0
    assert "net1.5.html" in done.stdout.replace("\n", "")
    assert "<h1>made up</h1>" in (plan_file.parent / "net1.5.html").read_text()


def test_page_trace_and_model_at_once(plan_file: Path) -> None:
    folder = plan_file.parent
    save_model(folder / "m.onnx")
    written = [folder / name for name in ("r.html", "t.json", "seen.onnx")]
    page, trace, seen = written
    done = command(plan_file, "-o", page, "--trace", trace, "--onnx", seen, "--model", folder / "m.onnx", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {"written": {str(path): path.stat().st_size for path in written}}
    assert json.loads(trace.read_text())["traceEvents"]
    assert "conv2d/direct" in onnx.load(seen).graph.node[0].doc_string


def test_what_is_missing_is_one_clear_error_and_nothing_is_written(plan_file: Path) -> None:
    folder = plan_file.parent
    before = sorted(folder.iterdir())
    for arguments, kind, named in (
        ((folder / "absent.json",), PlanError, "absent.json"),
        ((plan_file, "-o", folder / "no" / "r.html"), BuildError, "choose another folder"),
        ((plan_file, "--onnx", folder / "seen.onnx"), ModelError, "--model"),
        ((plan_file, "--onnx", folder / "seen.onnx", "--model", folder / "gone.onnx"), ModelError, "gone.onnx"),
    ):
        done = command(*arguments)
        assert isinstance(done.exception, kind)
        assert named in str(done.exception)
        assert sorted(folder.iterdir()) == before
