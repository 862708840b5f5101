"""Plans from plan files and from built modules."""

from __future__ import annotations

import json
from pathlib import Path

from softneuro_tvm.plan import Plan


def load_plan(path: Path) -> tuple[Plan, dict[str, int]]:
    """The plan in a plan file (JSON) or in a built module (.so).

    Returns:
        The plan, and the memory that a built module needs; a plan file does not say that.

    Raises:
        PlanError: the plan file is missing or malformed.
        BuildError: the module cannot be loaded.
    """
    if path.suffix == ".so":
        from softneuro_tvm.runtime import load_module

        module = load_module(path)
        return Plan.from_json(json.dumps(module.plan)), dict(module.manifest.get("memory", {}))
    return Plan.load(path), {}
