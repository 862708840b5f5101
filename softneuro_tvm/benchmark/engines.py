"""The engines that can be compared. Each loads a model and returns a function that runs it once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from softneuro_tvm.benchmark import peers
from softneuro_tvm.errors import ProfileError

Run = Callable[[], Any]
"""Runs the model once on the inputs it was loaded with."""
Load = Callable[[str, Mapping[str, np.ndarray], int], tuple[Run, Callable[[], list[np.ndarray]]]]
"""Takes model, inputs and threads; returns a function to time, and one that returns the outputs as numpy arrays."""


def _softneuro_tvm(
    source: str, inputs: Mapping[str, np.ndarray], threads: int
) -> tuple[Run, Callable[[], list[np.ndarray]]]:
    """A library that this package built; `threads` is what it was tuned for."""
    from softneuro_tvm.runtime import load_module

    module = load_module(source)
    tensors = module.tensors([], inputs)
    return module.runner(tensors), lambda: module.run(tensors)


def _untuned(source: str, inputs: Mapping[str, np.ndarray], threads: int) -> tuple[Run, Callable[[], list[np.ndarray]]]:
    """TVM as it comes: its ONNX front end and its default pipeline, with operator fusion."""
    from softneuro_tvm.plain import PlainModule

    module = PlainModule(source, threads=threads)
    tensors = module.tensors(inputs)
    return module.runner(tensors), lambda: module.run(inputs)


def _metaschedule(
    source: str, inputs: Mapping[str, np.ndarray], threads: int
) -> tuple[Run, Callable[[], list[np.ndarray]]]:
    """A library that `softneuro_tvm.benchmark.metaschedule` built; beside it lies what it says about itself."""
    import tvm
    from tvm.runtime.vm import VirtualMachine

    from softneuro_tvm.quiet import quiet_constants
    from softneuro_tvm.runtime import configure_threads

    about = Path(source).with_suffix(".json")
    if not about.is_file():
        raise ProfileError(f"{source!r} is no library of scripts/compare_metaschedule; that script builds and times it")
    with quiet_constants():
        main = VirtualMachine(tvm.runtime.load_module(source), tvm.cpu())["main"]
    tensors = [
        tvm.runtime.tensor(np.asarray(inputs[name], order="C")) for name in json.loads(about.read_text())["inputs"]
    ]
    configure_threads(threads)

    def outputs() -> list[np.ndarray]:
        result = main(*tensors)
        return [tensor.numpy() for tensor in ([result] if hasattr(result, "numpy") else result)]

    return lambda: main(*tensors), outputs


def _onnxruntime(
    source: str, inputs: Mapping[str, np.ndarray], threads: int
) -> tuple[Run, Callable[[], list[np.ndarray]]]:
    """Onnxruntime's CPU provider with all optimisations, sequential execution."""
    import onnxruntime

    from softneuro_tvm.plain import onnx_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = onnx_model(source)
    assert model is not None  # a string names a file or a zoo model
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = dict(inputs)
    return lambda: session.run(None, feeds), lambda: list(session.run(None, feeds))


ENGINES: dict[str, Load] = {
    "softneuro_tvm": _softneuro_tvm,
    "untuned": _untuned,
    "metaschedule": _metaschedule,
    "onnxruntime": _onnxruntime,
    "openvino": peers.openvino,
    "mnn": peers.mnn,
    "ncnn": peers.ncnn,
}
