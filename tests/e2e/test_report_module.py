"""A built module tells the report what a plan file cannot."""

from __future__ import annotations

from pathlib import Path

import onnx
import typer
from typer.testing import CliRunner

import softneuro_tvm as sn
from softneuro_tvm import zoo
from softneuro_tvm.builder import build
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.cli.report import report
from softneuro_tvm.selection import select
from tests.support import made_up


def test_a_built_module_adds_ports_memory_and_its_model(tmp_path: Path) -> None:
    model, device = tmp_path / "digits.onnx", sn.host_device(1)
    onnx.save(zoo.resolve("zoo:digits"), model)
    graph = sn.load(model).graph
    candidates = enumerate_candidates(graph, device)
    plan = select(graph, candidates, made_up.profile(candidates.all(), 0), device)
    build(graph, plan, device, str(model)).export(tmp_path / "digits.so")

    app = typer.Typer()
    app.command()(report)
    arguments = [str(tmp_path / "digits.so"), "--onnx", str(tmp_path / "seen.onnx")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.exception
    page = (tmp_path / "digits.html").read_text()
    for part in ("Memory as built", "float32[1, 1, 16, 16]", str(model)):
        assert part in page
    for choice in plan.layers:
        assert choice.descriptor.replace(",", ",<wbr>").replace("/", "/<wbr>") in page
    seen = onnx.load(tmp_path / "seen.onnx")
    described = {
        entry.value for node in seen.graph.node for entry in node.metadata_props if entry.key.endswith("layer")
    }
    assert described == {choice.layer for choice in plan.layers}
