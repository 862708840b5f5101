"""The threads that built modules run on: as many as the plan says, on the cores that the process may use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import softneuro_tvm as sn
from softneuro_tvm.builder import build
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.selection import select
from tests.support import made_up
from tests.support.graphs import Builder

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores, and Linux"
)

_RUN = """
import os, sys, threading, numpy, tvm, softneuro_tvm as sn
allowed = os.sched_getaffinity(0)
module = sn.load_module(sys.argv[1])
arrays = [numpy.zeros(port["shape"], port["dtype"]) for port in module.manifest["inputs"]]
count = tvm.get_global_func("runtime.NumThreads")
found = []
def run():
    module(*arrays)
    used = set().union(*(os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")))
    found.append((count(), used <= allowed))
run()
other = threading.Thread(target=run)
other.start()
other.join()
print(found)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Libraries of the same network for 1 and 2 threads."""
    folder = tmp_path_factory.mktemp("threads")
    for threads in (1, 2):
        b = Builder(x=(1, 16, 16, 16))
        graph, device = b.graph(b.conv("only", "x", 16)), sn.host_device(threads)
        candidates = enumerate_candidates(graph, device)
        plan = select(graph, candidates, made_up.profile(candidates.all(), 0), device)
        build(graph, plan, device).export(folder / f"{threads}.so")
    return folder


@pytest.mark.parametrize(("cores", "threads", "expected"), [(2, 2, 2), (2, 1, 1), (1, 2, 1)])
def test_threads_are_the_plans_on_cores_that_are_allowed(folder: Path, cores: int, threads: int, expected: int) -> None:
    allowed = sorted(os.sched_getaffinity(0))[-cores:]
    environment = {key: value for key, value in os.environ.items() if key != "TVM_NUM_THREADS"}
    code = f"import os; os.sched_setaffinity(0, {allowed})\n{_RUN}"
    command = [sys.executable, "-c", code, str(folder / f"{threads}.so")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([(expected, True)] * 2)
