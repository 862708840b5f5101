"""Options of the test suite."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

for _profile, _derandomized in (("same", True), ("search", False)):
    settings.register_profile(
        _profile, derandomize=_derandomized, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
settings.load_profile("same")


def pytest_configure() -> None:
    """Ctrl-C works in the processes that tests start, also where a shell started the suite in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option that writes golden files anew."""
    parser.addoption("--update-golden", action="store_true", help="write the files of tests/golden anew")


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the kernels that tests compile apart from the user's; all tests of a run share them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTNEURO_TVM_OBJECTS", str(tmp_path_factory.mktemp("objects")))
        yield
