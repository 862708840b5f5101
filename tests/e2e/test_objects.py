"""Nothing is compiled twice: what was compiled to be measured, or for another build, is linked."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import softneuro_tvm as sn
from softneuro_tvm import codegen
from softneuro_tvm.builder import build
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.device import available_cores
from softneuro_tvm.errors import BuildError
from softneuro_tvm.graph import Graph
from softneuro_tvm.kernel_objects import object_file, with_symbol
from softneuro_tvm.layers.reshape import ReshapeAttributes
from softneuro_tvm.object_cache import ObjectCache
from softneuro_tvm.profiler import tasks
from softneuro_tvm.reference import evaluate, sample_inputs
from softneuro_tvm.registry import routine
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection import select
from tests.support import made_up
from tests.support.graphs import Builder


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Symbols of what is compiled from now on."""
    symbols: list[str] = []
    original = codegen.compile_object

    def compile_object(function: Any, target: Any) -> bytes:
        symbols.append(str(function.attrs["global_symbol"]))
        return original(function, target)

    monkeypatch.setattr(codegen, "compile_object", compile_object)
    return symbols


def network() -> Graph:
    """Equal layers, whose kernel is called twice, and an elementwise one that may write in place."""
    b = Builder(x=(1, 16, 8, 8))
    first = b.conv("first", "x", 16)
    second = b.conv("second", first, 16)
    total = b.each("total", (("add", ("x0", "x1")),), first, second)
    return b.graph(b.conv("last", b.each("relu", (("maximum", ("x0", 0.0)),), total), 32))


def planned(graph: Graph, seed: int = 0) -> tuple[Any, Any]:
    device = sn.host_device(1)
    candidates = enumerate_candidates(graph, device)
    return select(graph, candidates, made_up.profile(candidates.all(), seed), device), device


def outputs(module: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(port["shape"]).astype("float32") for port in module.manifest["inputs"]]
    return list(module.run(module.tensors(arrays)))


def damage(cache: ObjectCache) -> None:
    for path in cache.folder.rglob("*.o"):
        path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("name", ["", "vit_tiny"])
def test_a_second_build_compiles_nothing(name: str, tmp_path: Path, compiled: list[str]) -> None:
    graph = sn.load(f"zoo:{name}").graph if name else network()
    plan, device = planned(graph)
    cache = ObjectCache(tmp_path / "objects")
    first = build(graph, plan, device, cache=cache)
    assert compiled and len(set(compiled)) == len(compiled)
    compiled.clear()
    second = build(graph, plan, device, cache=cache)
    assert not compiled
    for one, other in zip(outputs(first), outputs(second), strict=True):
        np.testing.assert_array_equal(one, other)
    for module, path in ((first, "first.so"), (second, "second.so")):
        module.export(tmp_path / path)
    assert (tmp_path / "first.so").read_bytes() == (tmp_path / "second.so").read_bytes()


def test_damaged_objects_are_compiled_again(tmp_path: Path, compiled: list[str]) -> None:
    graph = network()
    plan, device = planned(graph)
    cache = ObjectCache(tmp_path)
    expected = outputs(build(graph, plan, device, cache=cache))
    before = sorted(compiled)
    damage(cache)
    compiled.clear()
    found = outputs(build(graph, plan, device, cache=cache))
    assert sorted(compiled) == before
    np.testing.assert_array_equal(found[0], expected[0])


def test_another_target_gets_objects_of_its_own(tmp_path: Path, compiled: list[str]) -> None:
    graph, device = network(), sn.host_device(1)
    candidate = next(c for c in enumerate_candidates(graph, device).all() if c.workload.kind == "conv2d")
    target = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}
    cache = ObjectCache(tmp_path)
    kernel = with_symbol(candidate.routine.emit(candidate.workload, candidate.variant, device), "conv2d/any")
    objects = [object_file(kernel, chosen, cache) for chosen in (device.target, target, device.target, target)]
    assert len(compiled) == 2
    assert objects[0] == objects[2] != objects[1] == objects[3]
    assert objects[1][18:20] == (183).to_bytes(2, "little")  # EM_AARCH64


def chosen(graph: Graph, plan: Any) -> list[Candidate]:
    layers = [Candidate(graph.workloads[c.layer], routine(c.routine), c.variant) for c in plan.layers if not c.covers]
    return [candidate for candidate in layers if candidate.workload.kind == "conv2d"]


def batch(candidates: Sequence[Candidate], device: Any, folder: Path, objects: Path) -> list[Any]:
    tasks.prepare(candidates[0].workload, [], str(folder))
    pickled, folders = [pickle.dumps(c) for c in candidates], [str(folder)] * len(candidates)
    return tasks.compile_batch(pickled, device, folders, str(folder / "lib.so"), str(objects))


def test_what_the_profiler_compiled_is_linked(tmp_path: Path, compiled: list[str]) -> None:
    graph = network()
    plan, device = planned(graph)
    candidates = chosen(graph, plan)
    assert len(candidates) == 3
    for index, candidate in enumerate(candidates):
        (result,) = batch([candidate], sn.host_device(1), tmp_path / str(index), tmp_path / "objects")
        assert result.form == "kernel", result.message
        assert result.symbol in compiled
    measured = set(compiled)
    compiled.clear()
    build(graph, plan, device, cache=ObjectCache(tmp_path / "objects"))
    assert compiled
    assert not measured & set(compiled)


def test_equal_candidates_share_a_kernel(tmp_path: Path, compiled: list[str]) -> None:
    graph = network()
    plan, device = planned(graph)
    candidate = chosen(graph, plan)[0]
    first, second = batch([candidate, candidate], device, tmp_path, tmp_path / "objects")
    assert first == second
    assert compiled == [first.symbol]


def test_a_kernel_with_other_arguments_than_planned_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network()
    plan, device = planned(graph)
    candidate = chosen(graph, plan)[0]
    pack = type(candidate.routine).pack
    monkeypatch.setattr(type(candidate.routine), "pack", lambda *given: tuple(a[:1] for a in pack(*given)))
    (result,) = batch([candidate], device, tmp_path, tmp_path / "objects")
    assert result.form == "failed"
    assert candidate.routine.name in result.message and "make `emit`, `pack`" in result.message


def test_no_file_remains_without_a_linker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch, exported = tmp_path / "scratch", tmp_path / "exported"
    scratch.mkdir()
    exported.mkdir()
    monkeypatch.setattr("softneuro_tvm.library.loadable_folder", lambda _: str(scratch))
    graph = network()
    plan, device = planned(graph)
    module = build(graph, plan, device, cache=ObjectCache(tmp_path / "objects"))
    assert not list(scratch.iterdir())
    monkeypatch.setenv("CC", "false")
    with pytest.raises(BuildError, match="linking"):
        build(graph, plan, device, cache=ObjectCache(tmp_path / "objects"))
    assert not list(scratch.iterdir())
    with pytest.raises(BuildError, match="cannot write"):
        module.export(exported / "absent" / "x.so")
    module.export(exported / "x.so")
    assert [path.name for path in exported.iterdir()] == ["x.so"]
    np.testing.assert_array_equal(outputs(sn.load_module(exported / "x.so"))[0], outputs(module)[0])


def test_a_network_without_kernels(tmp_path: Path) -> None:
    b = Builder(x=(2, 8))
    graph = b.graph(b.add("flat", ReshapeAttributes((16,)), "x"))
    plan, device = planned(graph)
    module = build(graph, plan, device, cache=ObjectCache(tmp_path / "objects"))
    module.export(tmp_path / "view.so")
    array = np.arange(16, dtype="float32").reshape(2, 8)
    for each in (module, sn.load_module(tmp_path / "view.so")):
        np.testing.assert_array_equal(each(array), array.reshape(-1))


def test_an_assembler_includes_data_where_objects_are_not_elf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network()
    plan, device = planned(graph)
    monkeypatch.setattr("softneuro_tvm.library.is_elf64", lambda _: False)
    build(graph, plan, device, cache=ObjectCache(tmp_path / "objects")).export(tmp_path / "one.so")
    inputs = sample_inputs(graph)
    found, expected = sn.load_module(tmp_path / "one.so")(**inputs), next(iter(evaluate(graph, inputs).values()))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


_THREADS = """
import sys, numpy, tvm
from tvm.runtime.vm import VirtualMachine
network = VirtualMachine(tvm.runtime.load_module(sys.argv[1]), tvm.cpu())
network["main"](tvm.runtime.tensor(numpy.zeros(eval(sys.argv[2]), "float32")))
print(tvm.get_global_func("runtime.NumThreads")())
"""


@pytest.mark.parametrize(("chosen", "expected"), [({}, available_cores()), ({"TVM_NUM_THREADS": "1"}, 1)])
def test_who_sets_nothing_gets_as_many_threads_as_were_tuned_for(
    tmp_path: Path, chosen: dict[str, str], expected: int
) -> None:
    graph = network()
    device = sn.host_device()
    candidates = enumerate_candidates(graph, device)
    plan = select(graph, candidates, made_up.profile(candidates.all(), 0), device)
    build(graph, plan, device, cache=ObjectCache(tmp_path / "objects")).export(tmp_path / "one.so")
    shape = graph.tensors[graph.inputs[0]].shape
    environment = {key: value for key, value in os.environ.items() if key != "TVM_NUM_THREADS"} | chosen
    command = [sys.executable, "-c", _THREADS, str(tmp_path / "one.so"), str(shape)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == expected
