"""Owns the lines at the end of a run: machines, boot times, bases; in a parallel run those of all workers."""

import shlex
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_readonly_vm.plugin.run import NEWS, News, Run

_WORKER_KEY = "readonly_vm"
_MANNERS = {"boot": "booted", "clone": "cloned", "revert": "set back"}


class Summary:
    """Collects what the reports of all tests carry, and says it once."""

    def __init__(self) -> None:
        self._boots: list[dict[str, Any]] = []
        self._checked: Counter[str] = Counter()
        self._changed: dict[str, str] = {}
        self._kept: list[str] = []
        self._hashed: set[str] = set()
        self._complaints: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        news: News | None = vars(report).get(NEWS)
        if news:
            self._boots += news["boots"]
            self._checked.update(news["checked"])
            self._changed.update(news["changed"])
            self._kept += news["kept"]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Compare digests, when all machines have ended; a difference fails the run."""
        run = Run.of(session.config)
        if run.has_lab:
            same, complaints = run.lab.compare_digests()
            self._take_digests([str(path) for path in same], list(complaints))
        output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[_WORKER_KEY] = (sorted(self._hashed), self._complaints)
        if self._complaints and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what an xdist worker found; a worker that died has nothing to say."""
        self._take_digests(*getattr(node, "workeroutput", {}).get(_WORKER_KEY, ((), ())))

    def _take_digests(self, same: list[str], complaints: list[str]) -> None:
        self._hashed.update(same)
        self._complaints += complaints

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self._boots and not self._checked and not self._changed:
            return
        terminalreporter.write_sep("-", "virtual machines")
        for line in self._start_lines():
            terminalreporter.write_line(line)
        if (wanted := terminalreporter.config.option.durations) is not None:
            for boot in sorted(self._boots, key=lambda boot: -boot["seconds"])[: wanted or None]:
                terminalreporter.write_line(_boot_line(boot))
        for complaint in sorted({*self._complaints, *self._changed.values()}):
            terminalreporter.write_line(f"BASE IMAGE CHANGED: {complaint}", red=True, bold=True)
        for image, tests in sorted(self._checked.items()):
            if image in self._changed:
                continue
            proof = "identity, size and times"
            if image in self._hashed:
                proof += "; SHA-256 at the end of the run"
            terminalreporter.write_line(f"base {Path(image).name} unchanged after {tests} tests ({proof})")
        for path in self._kept:
            terminalreporter.write_line(f"kept overlay {path} (boot it again: pytest --vm-image={shlex.quote(path)})")

    def _start_lines(self) -> Iterator[str]:
        """One for each way in which machines came to be, then why not in a better one."""
        if not self._boots:
            yield "no machine started"
        for manner, words in _MANNERS.items():
            if starts := [boot for boot in self._boots if boot["manner"] == manner]:
                yield _start_line(starts, words)
        reasons = Counter(boot["reason"] for boot in self._boots if boot["reason"])
        for reason, count in reasons.most_common():
            yield f"{count} not cloned: {reason}"


def _start_line(starts: list[dict[str, Any]], words: str) -> str:
    seconds = [start["seconds"] for start in starts]
    how = " and ".join(sorted({start["accelerator"] for start in starts}))
    channels = " and ".join(sorted({start["channel"] for start in starts if start["channel"]}))
    how += f"; commands over {channels}" if channels else ""
    if len(seconds) == 1:
        return f"1 machine {words} in {seconds[0]:.2f} s with {how}"
    times = f"each in {statistics.median(seconds):.2f} s (median; slowest {max(seconds):.2f} s)"
    return f"{len(seconds)} machines {words}, {times}, with {how}"


def _boot_line(boot: dict[str, Any]) -> str:
    phases = ", ".join(f"{name} {seconds:.2f}" for name, seconds in boot["phases"].items())
    return f"{boot['seconds']:.2f}s {boot['manner']:<8} {boot['name']}{f' ({phases})' if phases else ''}"
