"""A pytest plugin: appends one JSON line per finished test to the file that the environment names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

RESULTS_FILE = "BENCHMARKS_CUDA_TESTS"
_MOST_TEXT = 4000


def _add(test: str, outcome: str, seconds: float, text: str) -> None:
    line = json.dumps({"test": test, "outcome": outcome, "seconds": round(seconds, 2), "text": text[-_MOST_TEXT:]})
    with Path(os.environ[RESULTS_FILE]).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test that passes has a result when it was called; others when they fail, wherever."""
    if report.failed:
        outcome = "failed" if report.when == "call" else "error"
        _add(report.nodeid, outcome, report.duration, report.longreprtext)
    elif report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _add(report.nodeid, "skipped", report.duration, reason)
    elif report.when == "call":
        _add(report.nodeid, "passed", report.duration, "")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that cannot be imported is an error as well."""
    if report.failed:
        _add(report.nodeid, "error", 0.0, report.longreprtext)
