"""TVM as it comes, nothing of ours: the untuned baseline, and a second opinion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from softneuro_tvm import zoo

Shapes = Mapping[str, Sequence[int]] | None
"""Input shapes by name."""


def onnx_model(source: Any, input_shapes: Shapes = None) -> onnx.ModelProto | None:
    """The ONNX model that a source names, open input shapes fixed; None if it is no ONNX model.

    Args:
        source: What `softneuro_tvm.load` takes.
        input_shapes: Shapes of inputs that the model leaves open.

    Raises:
        ModelError: the file is missing or malformed.
    """
    from softneuro_tvm.importer.onnx_file import load_onnx
    from softneuro_tvm.importer.onnx_preflight import fix_input_shapes

    if isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
    elif isinstance(source, str | Path):
        named = str(source)
        model = zoo.resolve(named) if named.startswith("zoo:") else load_onnx(Path(source))
    else:
        return None
    fix_input_shapes(model.graph, dict(input_shapes or {}))
    return model


class PlainModule:
    """A model built by TVM's default pipeline (operator fusion, default schedules).

    Args:
        source: What `softneuro_tvm.load` takes.
        input_shapes: Shapes of inputs that the model leaves open.
        threads: Threads it may use; all cores by default.
    """

    def __init__(self, source: Any, input_shapes: Shapes = None, threads: int | None = None) -> None:
        import tvm
        from tvm import relax
        from tvm.relax.frontend.onnx import from_onnx

        from softneuro_tvm.device import host_device
        from softneuro_tvm.runtime import configure_threads

        device = host_device(threads)
        model = onnx_model(source, input_shapes)
        module = source if model is None else from_onnx(model, sanitize_input_names=False)
        target = tvm.target.Target(dict(device.target))
        with target, tvm.transform.PassContext(opt_level=3):
            module = relax.transform.DecomposeOpsForInference()(module)
            executable = relax.build(module, target, relax_pipeline=relax.get_default_pipeline(target))
        configure_threads(device.threads)
        self.names = [str(parameter.name) for parameter in module["main"].params]
        self._main = relax.VirtualMachine(executable, tvm.cpu())["main"]

    def tensors(self, inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """TVM tensors in the order of the parameters."""
        import tvm

        return [tvm.runtime.tensor(np.asarray(inputs[name], order="C")) for name in self.names]

    def runner(self, tensors: list[Any]) -> Callable[[], Any]:
        """A function that runs the model once."""
        return lambda: self._main(*tensors)

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs in the model's order."""
        result = self._main(*self.tensors(inputs))
        return [tensor.numpy() for tensor in ([result] if hasattr(result, "numpy") else result)]
