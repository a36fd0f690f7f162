"""Owns the page that shows a run: collects what the reports of all tests carry, and writes a single HTML file."""

import errno
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pytest_readonly_vm.plugin.given import given_settings
from pytest_readonly_vm.plugin.incident import INCIDENT
from pytest_readonly_vm.plugin.news import NEWS, News
from pytest_readonly_vm.plugin.page.rows import Rows
from pytest_readonly_vm.plugin.run import Run

_HEAD = 4096
_TITLE = b"<title>Test run in virtual machines</title>"
"""By which a page is known, in its first bytes."""


class Page:
    """Lives in the process that hears all reports: the only one, or xdist's controller."""

    def __init__(self, config: pytest.Config) -> None:
        """For a run that has the setting ``report``.

        :raises pytest.UsageError: something else is at its place that must not be lost.
        """
        given = given_settings(config)["report"]
        self._path = Path(str(given.value)).absolute()
        self._output_guard = Run.of(config).output_guard
        if why := self._output_guard.why_not(self._path) or why_no_page(self._path):
            raise pytest.UsageError(f"{given.origin}: {self._path}: {why}; nothing was written; choose another path")
        self._config = config
        self._rows = Rows(epoch=time.time())
        self._problem: OSError | None = None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._take(report, "collect", (time.time(), time.time()), "error")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        category = self._config.hook.pytest_report_teststatus(report=report, config=self._config)[0]
        # xdist's own report of a worker's crash has no times.
        times = (report.start, report.stop) if report.stop else (time.time(), time.time())
        self._take(report, str(report.when), times, category)
        news: News | None = vars(report).get(NEWS)
        if news:
            layers = [{**layer, "manner": "layer"} for layer in news["layers"]]
            self._rows.add_starts(_worker(report), [*news["boots"], *layers])
            for record in news["machines"]:
                self._rows.add_machine(_worker(report), record)

    def _take(self, report: Any, when: str, times: tuple[float, float], category: str) -> None:
        crash, message = self._reason(report) if category and category != "passed" else ("", "")
        folders = (vars(report).get(INCIDENT) or {}).get("folders", ())
        self._rows.add_phase(
            _worker(report),
            report.nodeid,
            when,
            times,
            outcome=category,
            crash=crash,
            message=message,
            evidence=[self._link(folder) for folder in folders],
        )

    def _link(self, folder: str) -> str:
        """A folder as seen from the page, so that both can be moved together; no scheme can hide in it."""
        return quote(os.fsencode(os.path.relpath(folder, self._path.parent))) + "/"

    def _reason(self, report: Any) -> tuple[str, str]:
        """Where and why a test did not pass: ``tests/test_a.py:12`` and a message; either may be empty."""
        if isinstance(report.longrepr, tuple):
            path, line, message = report.longrepr
        elif (crash := getattr(report.longrepr, "reprcrash", None)) is not None:
            path, line, message = crash.path, crash.lineno, crash.message
        else:
            return "", report.longreprtext
        root = self._config.rootpath
        return f"{Path(path).relative_to(root) if Path(path).is_relative_to(root) else path}:{line}", message

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Write the page, all of it or nothing; a failure is told in the summary and changes no outcome."""
        if self._config.option.collectonly:
            return
        from pytest_readonly_vm.plugin.page.document import document

        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            data = self._rows.data(title=self._config.rootpath.name, versions=_versions())
            shards = self._config.pluginmanager.get_plugin("readonly_vm shards")
            data["shard"] = shards.identity if shards else None
            if why := why_no_page(self._path):  # a test may have made it
                raise FileExistsError(errno.EEXIST, f"{why}; nothing was written", str(self._path))
            with self._output_guard.file(self._path) as file:
                file.write(document(data).encode())
        except OSError as error:
            self._problem = error

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._config.option.collectonly:
            return
        if self._problem is None:
            terminalreporter.write_line(f"report: {self._path.as_uri()}")
        else:
            why = self._problem.strerror or self._problem
            terminalreporter.write_line(f"report: {self._path} could not be written: {why}", yellow=True)


def why_no_page(path: Path) -> str | None:
    """Why a page may not replace what is at a path: only a page, or a file with nothing in it."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None  # if that does not change, the summary will tell
    except OSError as error:
        return f"it cannot be looked at: {error.strerror}"
    return None if not head or _TITLE in head else "it is a file that is there already, and no page of an earlier run"


def _worker(report: Any) -> str:
    """The xdist worker that a report is from; what tells of one that crashed is its node. Empty in a single process."""
    known = vars(report)
    node = known.get("node")
    return str(known.get("worker_id") or (node.gateway.id if node is not None else ""))


def _versions() -> str:
    names = ("pytest-readonly-vm", "pytest")
    return f"{', '.join(f'{name} {version(name)}' for name in names)}, Python {platform.python_version()}"
