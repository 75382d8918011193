"""Counts the tests of each suite (a folder under ``tests``) and refuses a run in which a suite got smaller.

A suite that is skipped, not collected or emptied by a mistake passes silently otherwise. Only a run of everything is
judged (``--minimum``, which ``scripts/test`` passes when it is given no paths); a skipped test does not count.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("suites")
    group.addoption("--minimum", metavar="FILE", help="fail when fewer tests of a suite pass than FILE (JSON) says")
    group.addoption("--record-minimum", metavar="FILE", help="write the counts of this run to FILE, if all passed")
    group.addoption("--tally", action="store_true", help="end with a line `N passed, N failed`")


def register(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # an xdist worker sees a part; its controller sees all
        config.pluginmanager.register(Suites(config), "suites")


def suite_of(nodeid: str) -> str:
    """``tests/auth/test_guard.py::test_x`` → ``auth``; a test directly under ``tests`` belongs to ``.``"""
    parts = nodeid.partition("::")[0].split("/")
    return parts[1] if len(parts) > 2 else "."


def shortfalls(minimum: dict[str, int], passed: Counter[str]) -> list[str]:
    """What is wrong with a full run, one sentence a suite."""
    found = [
        f"suite {suite}: {passed[suite]} passed, at least {least} are required"
        for suite, least in sorted(minimum.items())
        if passed[suite] < least
    ]
    unknown = sorted(suite for suite in passed if suite not in minimum)
    return found + [f"suite {suite} has no minimum yet: run scripts/test --record-minimum" for suite in unknown]


class Suites:
    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.passed: Counter[str] = Counter()
        self.bad: set[str] = set()
        self.found: list[str] = []
        self.status = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.bad.add(report.nodeid)
        elif report.when == "call" and report.passed:
            self.passed[suite_of(report.nodeid)] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.bad.add(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        minimum, record = self.config.getoption("--minimum"), self.config.getoption("--record-minimum")
        if record and exitstatus == 0:
            text = json.dumps(dict(sorted(self.passed.items())), indent=2)
            Path(record).write_text(text + "\n", encoding="utf-8")
        elif minimum:
            self.found = shortfalls(json.loads(Path(minimum).read_text(encoding="utf-8")), self.passed)
            if self.found:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self.status = int(session.exitstatus)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for sentence in self.found:
            terminalreporter.write_line(sentence, red=True)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        if config.getoption("--tally"):
            failed = len(self.bad) + len(self.found) or int(self.status != 0)  # an interrupted run is a failed one
            print(f"{sum(self.passed.values())} passed, {failed} failed", flush=True)
