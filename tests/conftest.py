"""Options of the test suite."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option that writes golden files anew."""
    parser.addoption("--update-golden", action="store_true", help="write the files of tests/golden anew")
