"""Machine code from what routines emit: pipelines and options, the same for profiling and building."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm
from tvm import relax, s_tir, tirx
from tvm.tirx import compilation_pipeline

from softneuro_tvm.linking import linker

TIR_PIPELINE = "softneuro_tvm"
"""Name under which the TIR pipeline is registered: pass it to `relax.build` and `tirx.build`."""

PASS_CONFIG: dict[str, Any] = {"tirx.disable_storage_rewrite": True, "tirx.disable_assert": True}
"""Pass options for emitted kernels: they plan their scratch memory themselves, and nobody checks their arguments again.

Arguments are what the plan says. Checking them would make half of the code of a small kernel.
"""


def _has_sblocks(function: tirx.PrimFunc) -> bool:
    """True for functions of TE or a schedule (their root is an SBlock), False for IR-builder kernels without any."""
    return isinstance(function.body, s_tir.SBlockRealize)


def _plain_passes() -> list[Any]:
    """What a kernel without SBlocks needs: the default pipeline's code in two thirds of its time."""
    return [
        tirx.transform.FlattenBuffer(),
        tirx.transform.BF16ComputeLegalize(),
        tirx.transform.VectorizeLoop(True),
        tirx.transform.UnrollLoop(),
        tirx.transform.StmtSimplify(),
        tirx.transform.VerifyMemory(),
        tirx.transform.SplitHostDevice(),
        tirx.transform.MakePackedAPI(),
        tirx.transform.BF16StorageLegalize(),
    ]


def _pipeline() -> tuple[Any, Any, Any]:
    """Lowers each function of a module by the pipeline that fits it."""
    default, finalize_host, finalize_device = s_tir.pipeline.default_s_tir_pipeline()

    @tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]
    def lower(module: Any, _context: Any) -> Any:
        functions = dict(module.functions.items())
        plain = {var: function for var, function in functions.items() if not _has_sblocks(function)}
        scheduled = {var: function for var, function in functions.items() if var not in plain}
        lowered = tvm.IRModule({}, attrs=module.attrs)
        if plain:
            lowered.update(tvm.ir.transform.Sequential(_plain_passes())(tvm.IRModule(plain, attrs=module.attrs)))
        if scheduled:
            lowered.update(default(tvm.IRModule(scheduled, attrs=module.attrs)))
        return lowered

    return lower, finalize_host, finalize_device


compilation_pipeline.register_tir_pipeline(TIR_PIPELINE, _pipeline)


def relax_pipeline(module: tvm.IRModule, target: tvm.target.Target) -> Any:
    """The passes that turn a Relax module into one for the virtual machine: TVM's own, with fusion.

    Args:
        module: Tells whether there are kernels without SBlocks: one of TVM's passes crashes on them and is left out.
        target: What is compiled for.
    """
    from tvm.relax.backend.cpu_generic import pipeline as cpu_generic

    lowering = cpu_generic.dataflow_lower_passes(target)
    if any(isinstance(f, tirx.PrimFunc) and not _has_sblocks(f) for f in module.functions.values()):
        lowering = lowering[1:]  # RewriteDataflowReshape comes first
    before = cpu_generic.library_dispatch_passes(target) + cpu_generic.legalize_passes(target)
    return tvm.transform.Sequential(before + lowering + cpu_generic.finalize_passes(target))


def rename(function: tirx.PrimFunc, symbol: str) -> tirx.PrimFunc:
    """The function under another symbol: within one library each must be unique."""
    return function.with_attr("global_symbol", symbol)


def _export(module: Any, path: Path) -> None:
    """Writes a library, under another name until it is whole."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.so")
    module.export_library(str(partial), fcompile=linker())
    partial.replace(path)


def compile_object(function: tirx.PrimFunc, target: Mapping[str, Any]) -> bytes:
    """Compiles one kernel.

    Args:
        function: Its attribute ``global_symbol`` names it within libraries.
        target: TVM target.

    Returns:
        The contents of an object file; the same for the same arguments.
    """
    module = tvm.IRModule({str(function.attrs["global_symbol"]): function})
    with tvm.transform.PassContext(opt_level=3, config=PASS_CONFIG):
        compiled = tirx.build(module, tvm.target.Target(dict(target)), pipeline=TIR_PIPELINE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.o"
        compiled.write_to_file(str(path))
        return path.read_bytes()


def compile_relax(module: tvm.IRModule, target: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Compiles a Relax module into a shared library for the virtual machine.

    Args:
        module: Relax functions with operators and `call_tir`, and the PrimFuncs they call.
        target: TVM target.
        path: The library to write.

    Raises:
        BuildError: no linker was found, or linking failed.
    """
    built_for = tvm.target.Target(dict(target))
    with built_for, tvm.transform.PassContext(opt_level=3, config=PASS_CONFIG):
        passes = relax_pipeline(module, built_for)
        compiled = relax.build(module, built_for, relax_pipeline=passes, tir_pipeline=TIR_PIPELINE)
    _export(compiled, Path(path))
