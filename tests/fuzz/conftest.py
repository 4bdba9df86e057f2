"""Fuzz tests: short with a fixed seed in CI, long by ``pytest tests/fuzz --hypothesis-profile long``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest

collect_ignore_glob = [] if find_spec("hypothesis") else ["fuzzing.py"]  # whose docstrings would be looked at for tests

if find_spec("hypothesis"):
    from tests.fuzz.fuzzing import calls  # which knows the profile `long`

    @pytest.fixture(autouse=True)
    def counted(record_property: Callable[[str, object], None]) -> Iterator[None]:
        """How many calls a test made."""
        before = dict(calls)
        yield
        for answer, count in calls.items():
            record_property(answer, count - before[answer])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many calls there were, in all processes of pytest-xdist."""
    reports = [report for report in terminalreporter.stats.get("", []) if report.when == "teardown"]
    of_fuzz = [dict(report.user_properties) for report in reports if "refused" in dict(report.user_properties)]
    if of_fuzz:
        right, refused = (sum(each[answer] for each in of_fuzz) for answer in ("right", "refused"))
        terminalreporter.write_line(f"fuzzed calls: {right + refused}, {right} right and {refused} refused by name")
