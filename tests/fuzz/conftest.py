"""Profiles of the fuzz tests: the short one of CI, with a fixed seed, and ``--hypothesis-profile long``."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("hypothesis"):
    from hypothesis import HealthCheck, settings

    common = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
    settings.register_profile("short", max_examples=100, derandomize=True, **common)
    settings.register_profile("long", max_examples=2000, **common)

    @pytest.fixture(autouse=True, scope="session")
    def profile(request: pytest.FixtureRequest) -> None:
        """The profile that the command line names, else the short one."""
        settings.load_profile(request.config.getoption("--hypothesis-profile") or "short")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many calls there were."""
    if find_spec("hypothesis"):
        from tests.fuzz.fuzzing import calls

        if any(calls.values()):
            terminalreporter.write_line(f"fuzzed calls: {calls['right']} right, {calls['refused']} refused")
