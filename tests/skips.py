"""A skipped test is a test that did not run: only those with a listed reason may, any other fails the run."""

from __future__ import annotations

import re

import pytest

ALLOWED = (
    r"\.\./shared/data|shared/data",  # real data lies beside a developer's clone and is no part of the repository
)
"""Patterns of the reasons for which a test may be skipped, each with why it is acceptable."""


class SkipWatch:
    """Collects skips with an unlisted reason."""

    def __init__(self) -> None:
        self.unexpected: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look at one test's skip; an expected failure is no skip."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self.note(report.nodeid, report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Look at a module that was skipped as a whole."""
        if report.skipped:
            self.note(report.nodeid, report.longrepr)

    def note(self, nodeid: str, longrepr: object) -> None:
        """Keep the skip if its reason is not listed."""
        reason = str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
        if not is_allowed(reason):
            self.unexpected.append(f"{nodeid}: {reason}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn a green run with an unexpected skip red."""
        if self.unexpected and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name the unexpected skips."""
        if self.unexpected:
            terminalreporter.section("skips that are not listed in tests/skips.py", red=True)
            for line in self.unexpected:
                terminalreporter.line(line)


def is_allowed(reason: str) -> bool:
    """Return whether a test may be skipped for `reason`."""
    return any(re.search(pattern, reason) for pattern in ALLOWED)


def pytest_configure(config: pytest.Config) -> None:
    """Register the watch."""
    config.pluginmanager.register(SkipWatch(), "nightshift-skips")
