"""Routine selection for Apache TVM: tune a trained network for the hardware at hand in a minute.

>>> import softneuro_tvm as sn
>>> model = sn.load("resnet18.onnx")
>>> plan = sn.tune(model)
>>> module = sn.build(model, plan)
>>> module.export("resnet18.so")
>>> y = sn.load_module("resnet18.so")(x)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softneuro_tvm.device import Device, host_device
    from softneuro_tvm.devices import load_device
    from softneuro_tvm.errors import SoftNeuroError
    from softneuro_tvm.graph import Graph
    from softneuro_tvm.pipeline import Model, build, load, tune
    from softneuro_tvm.plan import Plan
    from softneuro_tvm.remote.board import Board
    from softneuro_tvm.runtime import Module, load_module
    from softneuro_tvm.verification import verify

__version__ = "0.1.0"

# name -> module that defines it; imported on first use, because importing TVM takes seconds
_LAZY = {
    "Board": "remote.board",
    "Device": "device",
    "Graph": "graph",
    "Model": "pipeline",
    "Module": "runtime",
    "Plan": "plan",
    "SoftNeuroError": "errors",
    "build": "pipeline",
    "host_device": "device",
    "load_device": "devices",
    "load": "pipeline",
    "load_module": "runtime",
    "tune": "pipeline",
    "verify": "verification",
}

__all__ = [
    "Board",
    "Device",
    "Graph",
    "Model",
    "Module",
    "Plan",
    "SoftNeuroError",
    "build",
    "host_device",
    "load",
    "load_device",
    "load_module",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
