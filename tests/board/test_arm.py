"""The C++ server on an emulated ARM board."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.board import ClientError, Server, add_one, call, compile_kernels, describe, run_client

RIGHT = [1.0, 2.0, 3.0, 4.0]


@pytest.fixture(scope="module")
def arm_kernels(arm_board: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_kernels(tmp_path_factory.mktemp("arm_kernels") / "kernels.so", "aarch64")


def test_a_kernel_that_tvm_compiled(arm_board: Server, tmp_path: Path) -> None:
    import numpy as np
    import tvm
    from tvm import te

    from softneuro_tvm.board.compiling import find_compiler

    size = 16
    a, b = te.placeholder((size, size), name="a"), te.placeholder((size, size), name="b")
    k = te.reduce_axis((0, size), name="k")
    c = te.compute((size, size), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="c")
    target = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"})
    module = tvm.compile(te.create_prim_func([a, b, c]), target)
    (tmp_path / "objects").mkdir()
    library = tmp_path / "matmul.so"
    link = tvm.support.cc.cross_compiler(_link_with(find_compiler("aarch64", "c")), output_format="so")
    module.export_library(str(library), fcompile=link, workspace_dir=str(tmp_path / "objects"))
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((size, size)).astype("float32") for _ in range(2))

    def client() -> Any:
        remote = arm_board.connect()
        tensors = [tvm.runtime.tensor(data, remote.cpu()) for data in (left, right, np.zeros_like(left))]
        call(remote, library, "main", *tensors)
        return tensors[2].numpy()

    np.testing.assert_allclose(run_client(client), left @ right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "cause"), [("segfault", "signal 11"), ("abort", "signal 6")])
def test_crashes_leave_it_usable(arm_board: Server, arm_kernels: Path, kernel: str, cause: str) -> None:
    with pytest.raises(ClientError, match=cause):
        run_client(lambda: call(arm_board.connect(), arm_kernels, kernel))
    assert run_client(lambda: add_one(arm_board.connect(), arm_kernels)) == RIGHT


def test_a_hanging_kernel_leaves_it_usable(arm_board: Server, arm_kernels: Path) -> None:
    with pytest.raises(ClientError, match="RPCSessionTimeoutError"):
        run_client(lambda: call(arm_board.connect(session_timeout=2), arm_kernels, "hang"))
    assert run_client(lambda: add_one(arm_board.connect(), arm_kernels)) == RIGHT


def test_a_library_of_this_machine_is_refused(arm_board: Server, kernels: Path, arm_kernels: Path) -> None:
    with pytest.raises(ClientError, match="built for another processor"):
        run_client(lambda: add_one(arm_board.connect(), kernels))
    assert run_client(lambda: add_one(arm_board.connect(), arm_kernels)) == RIGHT


def test_it_describes_the_emulated_processor(arm_board: Server) -> None:
    info = run_client(lambda: describe(arm_board))
    assert info["machine"] == "aarch64"
    assert {"asimd", "asimddp", "asimdhp", "fphp"} <= set(info["features"])
    assert "avx2" not in info["features"] and "AMD" not in info.get("part", "") and "Intel" not in info.get("part", "")


def _link_with(command: list[str]) -> Any:
    """A compiler of several words as TVM calls one."""

    def link(output: str, objects: list[str], options: list[str] | None = None, **_: Any) -> None:
        subprocess.run([*command, "-shared", "-fPIC", "-o", output, *objects, *(options or ())], check=True)

    return link
