"""Rules for all tests: those marked `kernel` get a kernel with ESP, and nothing is skipped."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import HealthCheck, settings

from swarmnet.cli.lab import kernel

settings.register_profile("swarmnet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("swarmnet")  # how fast a machine is at the moment is no property of the code


@cache
def _esp() -> bool:
    return kernel.has_esp()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kernel") and not _esp():
        pytest.fail("this test needs a kernel with ESP: run it by `make test-kernel`", pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test is a test that did not pass."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped") and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line("tests were skipped, and none may be", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
