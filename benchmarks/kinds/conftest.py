"""Writes down which tests start from the same frozen guest, and how many machines have booted."""

import json
import os
from pathlib import Path

import pytest

from pytest_readonly_vm.plugin.distribution.kinds import name_of_kind, wishes


class Kinds:
    """Lives where the reports of all tests are heard."""

    def __init__(self) -> None:
        self.boots = 0
        self.tests: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.tests = {item.nodeid: name_of_kind(wishes(item)) for item in session.items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        starts = getattr(report, "readonly_vm", {}).get("boots", ())
        self.boots += sum(start["manner"] == "boot" for start in starts)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if (output := os.environ.get("BENCHMARK_OUTPUT")) and not hasattr(session.config, "workerinput"):
            Path(output).write_text(json.dumps({"boots": self.boots, "tests": self.tests}))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Kinds())
