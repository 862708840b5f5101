"""A short soak: tuning while boards, tracker and kernels are killed. `scripts/soak` does the same for minutes."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "scripts")]
onnx_models = importlib.import_module("onnx_models")


def network() -> onnx.ModelProto:
    """A convolution, an average, a dense layer."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["y"], transB=1),
    ]
    weights = {"w1": (16, 16, 3, 3), "b1": (16,), "w2": (10, 16), "b2": (10,)}
    values: dict[str, np.ndarray] = {name: onnx_models.normal(*shape) for name, shape in weights.items()}
    return onnx_models.model(nodes, {"x": [1, 16, 12, 12]}, {"y": onnx.TensorProto.FLOAT}, values)


def test_tuning_survives_what_is_done_to_it(tmp_path: Path) -> None:
    for module in ("tornado", "cloudpickle", "psutil"):
        pytest.importorskip(module, reason="TVM's tracker needs the extra [rpc]")
    soak = importlib.import_module("soak")
    path = tmp_path / "model.onnx"
    onnx.save(network(), path)
    options = soak.Options(
        tmp_path,
        seed=10,
        minutes=0.06,
        models=[str(path)],
        mean_s=0.8,
        longest_stop_s=1.0,
        longest_pause_s=1.0,
        faults=("aborting", "exiting"),
        connect_timeout_s=5.0,
    )
    report = soak.soak(options)
    assert report.ok, [*report.problems, *(problem for run in report.runs for problem in run.problems)]
    assert any(signal for _, signal, _ in report.deeds), report.deeds
    for run in report.runs:
        assert run.exit_code == 0 and run.findings.statuses["ok"] > 10
        # the convolution has one that goes wrong, the dense layer two
        assert run.findings.candidates - run.findings.statuses["ok"] == 3
        assert run.reactions["candidates given up"] == 3
