"""A plan's predicted timeline in Chrome's trace format, which Perfetto and chrome://tracing show."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from softneuro_tvm.files import write_atomically
from softneuro_tvm.plan import LayerChoice, Plan
from softneuro_tvm.report.timeline import Step, layouts, steps

_PROCESS = 1
_LAYERS, _ADAPTERS = 1, 2
"""Thread numbers: a track for each."""


def trace(plan: Plan) -> dict[str, Any]:
    """The trace as JSON values.

    Layers and adapters are complete events ("X") on two tracks, in microseconds from the beginning of the network;
    they run one after another, each with all threads, so the tracks never overlap. The category is the layer's kind.

    Source: Trace Event Format, chromium.org.
    """
    named = [
        _metadata("process_name", _LAYERS, f"{plan.model} (predicted)"),
        _metadata("thread_name", _LAYERS, "layers"),
        _metadata("thread_name", _ADAPTERS, "adapters"),
    ]
    return {
        "traceEvents": [*named, *(_event(step, plan) for step in steps(plan))],
        "displayTimeUnit": "ms",
        "otherData": {
            "model": plan.model,
            "graph": plan.graph,
            "device": str(plan.device.get("part", "unknown")),
            "threads": plan.device.get("threads"),
            "predicted_s": plan.predicted_s,
        },
    }


def write_trace(plan: Plan, path: str | Path) -> None:
    """Writes the trace to a file, whole or not at all.

    Raises:
        BuildError: the file cannot be written.
    """
    write_atomically(Path(path), (json.dumps(trace(plan), indent=1) + "\n").encode())


def _metadata(name: str, thread: int, value: str) -> dict[str, Any]:
    return {"name": name, "ph": "M", "pid": _PROCESS, "tid": thread, "args": {"name": value}}


def _event(step: Step, plan: Plan) -> dict[str, Any]:
    work = step.work
    args: dict[str, Any] = {
        "routine": work.routine,
        "parameters": work.variant.params_text,
        "layouts": layouts(work),
        "share": work.median_s / plan.predicted_s if plan.predicted_s else 0.0,
    }
    if isinstance(work, LayerChoice):
        args |= {"descriptor": f"{work.descriptor}@{work.layer}", "spread": work.spread}
        args |= {"inputs": list(work.inputs), "outputs": list(work.outputs)}
        if math.isfinite(work.error):  # JSON has no infinity
            args["error"] = work.error
        if work.covers:
            args["covers"] = list(work.covers)
    else:
        args["tensor"] = work.tensor
    return {
        "name": step.name,
        "cat": work.kind if isinstance(work, LayerChoice) else "adapter",
        "ph": "X",
        "ts": step.start_s * 1e6,
        "dur": work.median_s * 1e6,
        "pid": _PROCESS,
        "tid": _ADAPTERS if step.is_adapter else _LAYERS,
        "args": args,
    }
