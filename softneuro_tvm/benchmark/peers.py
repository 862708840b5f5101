"""Other engines (`pip install softneuro_tvm[peers]`): OpenVINO, MNN, ncnn, each told to compute in float32.

Set-ups follow what each engine's own benchmark does for latency: one request, one stream, the given threads.
"""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from softneuro_tvm.errors import ProfileError
from softneuro_tvm.plain import onnx_model

Loaded = tuple[Callable[[], Any], Callable[[], list[np.ndarray]]]
"""A function to time, and one that returns the outputs."""


def _save_onnx(source: str, folder: str) -> Path:
    """Writes the model a source names to a file."""
    model = onnx_model(source)
    assert model is not None  # a string names a file or a zoo model
    path = Path(folder) / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def openvino(source: str, inputs: Mapping[str, np.ndarray], threads: int) -> Loaded:
    """OpenVINO: latency hint, one stream, float32."""
    import openvino as ov

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    with tempfile.TemporaryDirectory() as folder:
        compiled = ov.Core().compile_model(str(_save_onnx(source, folder)), "CPU", settings)
    request, feeds = compiled.create_infer_request(), dict(inputs)
    return (
        lambda: request.infer(feeds, share_inputs=True),
        lambda: [np.array(request.infer(feeds)[port]) for port in compiled.outputs],
    )


def mnn(source: str, inputs: Mapping[str, np.ndarray], threads: int) -> Loaded:
    """MNN: session interface, high precision. Converts by the wheel's own function, which reports nothing anywhere."""
    import _tools
    import MNN

    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "model.mnn"
        given = ["--modelFile", str(_save_onnx(source, folder)), "--MNNModel", str(converted), "--bizCode", "bench"]
        _tools.mnnconvert(["mnnconvert", "-f", "ONNX", *given])
        if not converted.exists():
            raise ProfileError("MNN cannot convert this model")
        network = MNN.Interpreter(str(converted))
    session = network.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    for name, array in inputs.items():
        port = network.getSessionInput(session, name)
        host = MNN.Tensor(array.shape, port.getDataType(), np.ascontiguousarray(array), MNN.Tensor_DimensionType_Caffe)
        port.copyFrom(host)

    def outputs() -> list[np.ndarray]:
        network.runSession(session)
        found = []
        for port in network.getSessionOutputAll(session).values():
            shape = port.getShape()
            host = MNN.Tensor(shape, MNN.Halide_Type_Float, np.zeros(shape, "float32"), MNN.Tensor_DimensionType_Caffe)
            port.copyToHostTensor(host)
            found.append(np.array(host.getData()).reshape(shape))
        return found

    return lambda: network.runSession(session), outputs


def ncnn(source: str, inputs: Mapping[str, np.ndarray], threads: int) -> Loaded:
    """Tencent's ncnn through pnnx: Winograd, sgemm and packing on, no reduced precision."""
    import ncnn as engine

    spec = importlib.util.find_spec("pnnx")
    if spec is None or not spec.submodule_search_locations:
        raise ProfileError("ncnn needs pnnx to convert models: pip install pnnx")
    converter = Path(spec.submodule_search_locations[0]) / "pnnx"
    network = engine.Net()
    network.opt.num_threads = threads
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(network.opt, name, False)
    for name in ("use_winograd_convolution", "use_sgemm_convolution", "use_packing_layout"):
        setattr(network.opt, name, True)
    with tempfile.TemporaryDirectory() as folder:
        path = _save_onnx(source, folder)
        shapes = ",".join(f"[{','.join(map(str, array.shape))}]f32" for array in inputs.values())
        command = [str(converter), path.name, f"inputshape={shapes}", "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if not (path.parent / "model.ncnn.param").exists():
            raise ProfileError(f"pnnx cannot convert this model: {done.stderr.strip()[-200:]}")
        network.load_param(str(path.parent / "model.ncnn.param"))
        network.load_model(str(path.parent / "model.ncnn.bin"))
    feeds = {f"in{i}": engine.Mat(array[0]).clone() for i, array in enumerate(inputs.values())}
    names = network.output_names()

    def run() -> list[Any]:
        extractor = network.create_extractor()
        for name, value in feeds.items():
            extractor.input(name, value)
        return [extractor.extract(name)[1] for name in names]

    return run, lambda: [np.array(value)[None] for value in run()]
