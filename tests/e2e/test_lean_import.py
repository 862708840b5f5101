"""TVM is imported without torch where torch is not needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from softneuro_tvm.lean_import import import_tvm
import_tvm()
import tvm
print("torch" in sys.modules, tvm.runtime.tensor is not None)
import torch
print(torch.loaded)
"""


def test_torch_stays_out_and_can_be_imported_later(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("loaded = True\n\n\nclass Tensor:\n    pass\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    command = [sys.executable, "-c", CODE]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "True", "True"]
