"""The main job on the small trained network: tune, build, export, load, run; and again from the store."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import softneuro_tvm as sn
from softneuro_tvm import zoo
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.cost_model import CostModel
from softneuro_tvm.errors import BuildError, PlanError, ProfileError, StoreError
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.pipeline import TuneOptions
from softneuro_tvm.profiler import ProfileStore, measurement_key
from softneuro_tvm.routine import Candidate
from softneuro_tvm.tuner import TunerOptions
from tests.support import made_up, onnx_models


class Counting:
    """Counts what is measured."""

    def __init__(self) -> None:
        self.total = self.known = self.measurements = 0
        self.failed: list[tuple[Candidate, Measurement]] = []

    def started(self, total: int, known: int) -> None:
        self.total, self.known = total, known

    def round(self, count: int, open_count: int, best_s: float, bound_s: float) -> None:
        pass

    def compiled(self, candidate: Candidate) -> None:
        pass

    def measured(self, candidate: Candidate, measurement: Measurement) -> None:
        self.measurements += 1
        if not measurement.ok:
            self.failed.append((candidate, measurement))

    def finished(self) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tune")


@pytest.fixture(scope="module")
def model() -> Any:
    return sn.load("zoo:digits")


@pytest.fixture(scope="module")
def tuned(model: Any, folder: Path) -> tuple[Any, Counting]:
    counting = Counting()
    plan = sn.tune(model, device=sn.host_device(1), store=folder / "store.sqlite", observer=counting)
    return plan, counting


@pytest.fixture(scope="module")
def library(model: Any, tuned: Any, folder: Path) -> Path:
    path = folder / "digits.so"
    sn.build(model, tuned[0]).export(path)
    return path


def test_every_candidate_is_right(tuned: Any) -> None:
    _, counting = tuned
    assert counting.total > counting.measurements > 20
    assert counting.known == 0
    assert not [f"{c.routine.name} {c.variant.params_text}: {m.message}" for c, m in counting.failed]


def test_a_second_tune_measures_nothing_and_gives_the_same_bytes(model: Any, tuned: Any, folder: Path) -> None:
    again = Counting()
    plan = sn.tune(model, device=sn.host_device(1), store=folder / "store.sqlite", observer=again)
    assert again.measurements == 0 < again.known
    assert plan.to_json() == tuned[0].to_json()


def test_what_other_networks_measured_meanwhile_changes_nothing(
    model: Any, tuned: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(folder / "store.sqlite", folder / "other.sqlite")
    device = sn.host_device(1)
    others = enumerate_candidates(sn.load(zoo.model("digits", batch=3)).graph, device).all()
    with ProfileStore(folder / "other.sqlite") as store:
        for candidate in others[::3]:
            store.put(measurement_key(candidate, device, "l2"), made_up.measurement(candidate))
    monkeypatch.setattr(CostModel, "for_device", None)  # nothing is predicted
    again = Counting()
    plan = sn.tune(model, device=device, store=folder / "other.sqlite", observer=again)
    assert again.measurements == 0
    assert plan.to_json() == tuned[0].to_json()


def test_the_cost_model_begins_with_what_other_networks_taught(
    tuned: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[Any] = []
    seed = CostModel.seed

    def watched(self: CostModel, records: Iterable[Any]) -> None:
        seeds.extend(records)
        seed(self, seeds)

    monkeypatch.setattr(CostModel, "seed", watched)
    other = sn.load(zoo.model("digits", batch=2))
    with pytest.raises(ProfileError, match="locked"):
        sn.tune(other, device=sn.host_device(2), store=folder / "store.sqlite", options=TuneOptions(locked=True))
    assert len(seeds) > 10 and {record.threads for record in seeds} == {1}
    assert not {record.candidate.workload for record in seeds} & set(other.graph.workloads.values())


def test_the_number_of_threads_is_found_by_measuring(model: Any, tuned: Any, folder: Path) -> None:
    quick = TunerOptions(gain=0.5, repeats=1)
    counts = [Counting(), Counting()]
    plans = [
        sn.tune(model, store=folder / "store.sqlite", observer=each, options=TuneOptions(threads=(1, 2), search=quick))
        for each in counts
    ]
    assert counts[0].measurements > counts[1].measurements == 0
    assert plans[0].to_json() == plans[1].to_json()
    compared = {entry["threads"]: entry for entry in plans[0].tuning["threads"]}
    assert set(compared) == {1, 2} and plans[0].device["threads"] in compared
    timed = [entry["measured_s"] for entry in compared.values()]
    assert all(timed) or "slower" in {entry["stopped"] for entry in compared.values()}
    module = sn.build(model, plans[0])
    assert module.threads == plans[0].device["threads"]


def test_the_plan_is_optimal_and_no_worse_than_simpler_ones(tuned: Any) -> None:
    plan = tuned[0]
    others = (a.plan_s for c in plan.layers for a in c.alternatives if a.measured)
    assert plan.lower_bound_s == pytest.approx(min(plan.predicted_s, *others))
    assert plan.method == "finals" or plan.lower_bound_s == pytest.approx(plan.predicted_s)
    parts = sum(c.median_s for c in plan.layers) + sum(a.median_s for a in plan.adapters)
    assert plan.predicted_s == pytest.approx(parts)
    for name, seconds in plan.comparison.items():
        if name != "no_adapters":
            assert seconds >= plan.lower_bound_s * (1 - 1e-9), name


def test_the_library_classifies_real_images(library: Path) -> None:
    module = sn.load_module(library)
    images, labels = zoo.digits_test()
    found = [int(np.argmax(module(image[None]))) for image in images]
    assert np.mean(np.array(found) == labels) >= 0.98


def test_the_library_agrees_with_onnxruntime(model: Any, tuned: Any, library: Path) -> None:
    agreement = sn.verify(model, tuned[0], sn.load_module(library))
    assert agreement.reference == "onnxruntime"
    assert agreement.error < 1e-4


def test_the_library_carries_its_plan_and_manifest(tuned: Any, library: Path) -> None:
    module = sn.load_module(library)
    assert sn.Plan.from_json(json.dumps(module.plan)) == tuned[0]
    assert module.manifest["inputs"] == [{"name": "input", "shape": [1, 1, 16, 16], "dtype": "float32"}]
    assert module.manifest["device"]["threads"] == 1


def test_the_library_runs_with_the_runtime_library_only(library: Path) -> None:
    code = (
        "import sys, numpy, softneuro_tvm as sn;"
        "y = sn.load_module(sys.argv[1])(numpy.zeros((1, 1, 16, 16), 'float32'));"
        "print(y.shape)"
    )
    environment = os.environ | {"TVM_USE_RUNTIME_LIB": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(library)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "(1, 10)"
    assert done.stderr == ""


@pytest.mark.parametrize("array", [np.zeros((1, 1, 8, 8), "float32"), np.zeros((1, 1, 16, 16), "int64")])
def test_a_wrong_input_is_named(library: Path, array: np.ndarray) -> None:
    with pytest.raises(BuildError, match="input 'input' must be"):
        sn.load_module(library)(array)


def test_a_plan_of_another_model_is_refused(tuned: Any) -> None:
    other = sn.load(zoo.model("digits", batch=2))
    with pytest.raises(PlanError, match="another model"):
        sn.build(other, tuned[0])


def test_a_store_that_cannot_be_made_is_one_clear_error(model: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        sn.tune(model, device=sn.host_device(1), store=tmp_path / "file" / "store.sqlite")


def test_commands(library: Path, folder: Path) -> None:
    def command(*arguments: str) -> str:
        environment = os.environ | {"SOFTNEURO_TVM_STORE": str(folder / "store.sqlite")}
        done = subprocess.run(
            [sys.executable, "-m", "softneuro_tvm", *arguments],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = json.loads(command("tune", "zoo:digits", "-o", "again.so", "--threads", "1", "--json"))
    assert found["measurements"]["measured"] == 0
    assert found["error"] < 1e-4
    explained = json.loads(command("explain", "again.plan.json", "--json"))
    assert any(layer["alternatives"] for layer in explained["layers"])
    assert re.search("proved optimal|faster as a whole network", command("explain", "again.so"))
    assert "chosen" in command("explain", "again.plan.json", "--layer", explained["layers"][0]["layer"])
    np.save(folder / "x.npy", zoo.digits_test()[0][:1])
    ran = json.loads(command("run", "again.so", "--input", "x.npy", "--print-time", "--repeat", "3", "--json"))
    assert ran["top"][0] == zoo.digits_test()[1][0]
    assert len(ran["samples_s"]) == 3
    compared = json.loads(command("bench", "again.so", "--against", "untuned,onnxruntime", "--rounds", "2", "--json"))
    assert [row["engine"] for row in compared["engines"]] == ["softneuro_tvm", "untuned", "onnxruntime"]
    assert all(row["error"] < 1e-4 and not row["message"] for row in compared["engines"])
    layers = json.loads(command("inspect", "zoo:digits", "--json"))["layers"]
    assert any("conv2d/winograd" in line for line in layers[0]["candidates"])
    names = {entry["routine"] for entry in json.loads(command("routines", "--json"))["routines"]}
    assert {"conv2d/direct", "conv2d/winograd", "default/te"} <= names


def test_a_network_of_views_is_tuned_in_no_time(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    found = onnx_models.model(nodes, {"x": [2, 6]}, {"y": onnx.TensorProto.FLOAT}, {"shape": np.array([3, 4])})
    onnx.save(found, tmp_path / "view.onnx")
    done = subprocess.run(
        [sys.executable, "-m", "softneuro_tvm", "tune", "view.onnx", "--tuning-records", "store.sqlite"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "proved optimal" in done.stderr + done.stdout and (tmp_path / "view.so").exists()
