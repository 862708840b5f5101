"""Imports TVM for a process of its own: command line, fork server."""

from __future__ import annotations

import importlib
import sys


def import_tvm() -> None:
    """Imports TVM without torch, which TVM's FFI imports where it is installed.

    That would take longer than TVM itself, and each fork would copy its page tables. Torch can be imported
    afterwards, but TVM functions then take its tensors only through `tvm.runtime.from_dlpack`.
    """
    if "tvm_ffi" in sys.modules or "torch" in sys.modules:
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("tvm")
    finally:
        del sys.modules["torch"]
