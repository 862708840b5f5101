"""Runs the official ONNX node tests through plain TVM and through this package: what passes there must pass here.

Each case runs in a forked child, so that a crash or a hang costs one case; once as it is, and once with its inputs
after the first turned into constants, as exporters write them. What this package refuses by design is counted apart:
inputs and outputs that are sequences, inputs without elements that are read.

    python scripts/onnx_node_tests.py [--stage import|build|tune] [--sample N] [--filter TEXT] [--verbose]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests

TIMEOUT_S = 60
REFUSALS = ("only tensors are supported", "there is nothing to compute")
Arrays = Mapping[str, np.ndarray]


def plain(model: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray]:
    """TVM without this package."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(model)
    executable = relax.build(module, tvm.target.Target({"kind": "llvm"}))
    results = relax.VirtualMachine(executable, tvm.cpu())["main"](
        *(tvm.runtime.tensor(np.ascontiguousarray(value)) for value in inputs.values())
    )
    return [field.numpy() for field in ([results] if isinstance(results, tvm.runtime.Tensor) else results)]


def ours(model: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray]:
    """This package: the imported graph, evaluated."""
    from softneuro_tvm.importer import import_model
    from softneuro_tvm.reference import evaluate

    return list(evaluate(import_model(model), inputs).values())


def built(model: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray]:
    """This package without measuring: times are made up so that each model uses another routine of each kind."""
    import softneuro_tvm as sn
    from softneuro_tvm.candidates import enumerate_candidates
    from softneuro_tvm.device import host_device
    from softneuro_tvm.measurement import Measurement
    from softneuro_tvm.routine import Candidate
    from softneuro_tvm.selection import select

    loaded, device = sn.load(model), host_device()
    candidates = enumerate_candidates(loaded.graph, device)
    turn = zlib.crc32(loaded.graph.digest.encode())
    times: dict[Candidate, Measurement] = {}
    for workload, options in candidates.by_workload.items():
        dear = 1e-6 if workload.kind == "layout_cast" else 2.0
        times |= {c: Measurement("ok", (min(dear, 1.0 + (i != turn % len(options))),)) for i, c in enumerate(options)}
    module = sn.build(loaded, select(loaded.graph, candidates, times, device))
    return module.run(module.tensors(list(inputs.values())))


def tuned(model: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray]:
    """This package, all stages: tuned and built."""
    import softneuro_tvm as sn

    loaded = sn.load(model)
    with tempfile.TemporaryDirectory() as folder:
        module = sn.build(loaded, sn.tune(loaded, store=Path(folder) / "profile.db"))
    return module.run(module.tensors(list(inputs.values())))


STAGES = {"import": ours, "build": built, "tune": tuned}


def with_constants(model: onnx.ModelProto, inputs: Arrays) -> tuple[onnx.ModelProto, Arrays]:
    """The model with all inputs but the first as initialisers."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.ir_version = max(4, model.ir_version)  # earlier versions want every initialiser among the inputs
    first, *rest = inputs
    for value in [value for value in changed.graph.input if value.name in rest]:
        changed.graph.input.remove(value)
    changed.graph.initializer.extend(onnx.numpy_helper.from_array(inputs[name], name) for name in rest)
    return changed, {first: inputs[first]}


def attempt(run: Callable[[onnx.ModelProto, Arrays], list[np.ndarray]], case: Any, constants: bool) -> str:
    """Empty if a case passes, otherwise what went wrong; in a child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(TIMEOUT_S)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        os.write(writer, json.dumps(outcome(run, case, constants)).encode()[:60000])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return str(json.loads(text)) if text else f"ended by signal {os.WTERMSIG(status)}"


def _array(value: Any) -> np.ndarray:
    """A case's input or output; element types that numpy lacks come as `TensorProto`."""
    return np.asarray(onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value)


def outcome(run: Callable[[onnx.ModelProto, Arrays], list[np.ndarray]], case: Any, constants: bool) -> str:
    """Empty if a case passes, otherwise what went wrong."""
    try:
        for values, expected in case.data_sets:
            initialised = {tensor.name for tensor in case.model.graph.initializer}
            names = [value.name for value in case.model.graph.input if value.name not in initialised]
            model = case.model
            inputs: Arrays = {name: _array(value) for name, value in zip(names, values, strict=True)}
            if constants:
                model, inputs = with_constants(model, inputs)
            for found, wanted in zip(run(model, inputs), expected, strict=True):
                wanted = _array(wanted)
                if found.shape != wanted.shape or found.dtype != wanted.dtype:
                    return f"{found.dtype}{list(found.shape)} instead of {wanted.dtype}{list(wanted.shape)}"
                np.testing.assert_allclose(found, wanted, rtol=max(case.rtol, 1e-3), atol=max(case.atol, 1e-5))
    except Exception as error:  # whatever goes wrong is the case's result
        return "".join(traceback.format_exception_only(error))[:2000] or repr(error)
    return ""


def main() -> int:
    """Runs the cases and prints a summary; 1 if something passes plainly but not here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--stage", choices=STAGES, default="import", help="evaluate the imported graph, build it unmeasured, or tune it"
    )
    parser.add_argument("--sample", type=int, default=0, help="run about N cases, evenly spread")
    parser.add_argument("--filter", default="", help="run the cases whose names contain TEXT")
    parser.add_argument("--verbose", action="store_true", help="show why cases fail here")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        cases = [case for case in load_model_tests(kind="node") if arguments.filter in case.name]
    if arguments.sample:
        cases = cases[:: max(1, len(cases) // arguments.sample)]
    for module in ("importer.onnx_convert", "importer.onnx_preflight", "importer.relax_graph", "reference"):
        importlib.import_module(f"softneuro_tvm.{module}")  # children inherit them

    counts: Counter[str] = Counter()
    regressions = 0
    for number, case in enumerate(cases):
        for constants in (False, True)[: min(2, len(case.model.graph.input))]:
            problem = attempt(plain, case, constants)
            found = attempt(STAGES[arguments.stage] if not problem else ours, case, constants)
            is_refused = any(text in found for text in REFUSALS)
            verdict = "refuses" if is_refused else "fails" if found else "passes"
            counts[f"plain {'fails' if problem else 'passes'}, ours {verdict}"] += 1
            is_regression = verdict == "fails" and not problem
            regressions += is_regression
            if is_regression or (arguments.verbose and found):
                label = "REGRESSION" if is_regression else verdict if problem else f"{verdict} (plain passes)"
                print(f"{label} {case.name}{' (constants)' if constants else ''}: {found.strip()}", flush=True)
        if number % 100 == 99:
            print(f"{number + 1}/{len(cases)}", file=sys.stderr, flush=True)
    for label, count in sorted(counts.items()):
        print(f"{count:5d} {label}")
    return 1 if regressions else 0


if __name__ == "__main__":
    sys.exit(main())
