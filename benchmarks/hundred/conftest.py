"""Writes down how long the phases of each test took, when it was over, and how each machine came to be."""

import json
import os
import time
from pathlib import Path

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("number", range(int(os.environ.get("BENCHMARK_TESTS", "1"))))


class Reports:
    """Collects them all; a plugin, for hooks of reports are not told the config."""

    def __init__(self) -> None:
        self.found: list[dict[str, object]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        manners = [boot["manner"] for boot in getattr(report, "readonly_vm", {}).get("boots", ())]
        self.found.append({"when": report.when, "seconds": report.duration, "now": time.time(), "manners": manners})

    def pytest_sessionfinish(self) -> None:
        if output := os.environ.get("BENCHMARK_OUTPUT"):
            Path(output).write_text(json.dumps(self.found))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Reports())
