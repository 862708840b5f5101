"""The emulated ARM board, for tests that need one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "arm_board.py"


def arm_board_command() -> list[str]:
    """What starts its server, but for the server's options; the test is skipped where it cannot be set up."""
    command = [sys.executable, str(SCRIPT), "--no-install"]
    done = subprocess.run([*command, "--setup-only"], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return command
