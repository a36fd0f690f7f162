"""Owns the lines at the end of a run: machines, boot times, bases; in a parallel run those of all workers."""

import shlex
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import pytest

from pytest_readonly_vm.config.image_reference import is_url
from pytest_readonly_vm.host.stopwatch import Part
from pytest_readonly_vm.plugin import integrations
from pytest_readonly_vm.plugin.incident import INCIDENT
from pytest_readonly_vm.plugin.news import NEWS, News
from pytest_readonly_vm.plugin.run import Run
from pytest_readonly_vm.plugin.time_spent import TimeSpent
from pytest_readonly_vm.printable import count, line

_WORKER_KEY = "readonly_vm"
_TIME_KEY = "readonly_vm_time"
_FOLDERS_SHOWN = 10
_MANNERS = {"boot": "booted", "clone": "cloned"}


class Session(Protocol):
    """What is known from the start, also where the summary comes late."""

    began: float
    """When the session did, by `time.perf_counter`."""
    workers: int
    """How many of xdist there are at a time, or 0."""


class Summary:
    """Collects what the reports of all tests carry, and says it once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._boots: list[dict[str, Any]] = []
        self._layers: list[dict[str, Any]] = []
        self._checked: Counter[str] = Counter()
        self._changed: dict[str, str] = {}
        self._kept: list[dict[str, Any]] = []
        self._hashed: dict[str, str] = {}
        """What comparing the digests of a base has found, or nothing."""
        self._incidents: list[dict[str, Any]] = []
        self._time = TimeSpent()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        news: News | None = vars(report).get(NEWS)
        if news:
            self._boots += news["boots"]
            self._layers += news["layers"]
            self._checked.update(news["checked"])
            self._changed.update(news["changed"])
            self._kept += news["kept"]
            self._time.take_phase(report, news["during"])
            self._time.take(news["after"])
        if incident := vars(report).get(INCIDENT):
            self._incidents.append(incident)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Compare digests, when all machines have ended; a difference fails the run."""
        run = Run.of(session.config)
        if run.has_lab:
            with run.stopwatch.part(Part.CHECKING):
                self._take_digests({str(path): found for path, found in run.lab.compare_digests().items()})
        output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[_WORKER_KEY] = self._hashed
            output[_TIME_KEY] = run.stopwatch.take()
        else:
            integrations.append_step_summary(self._incidents, run.evidence.shown, run.output_guard)
        if any(self._hashed.values()) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what an xdist worker found; a worker that died has nothing to say."""
        output: dict[str, Any] | None = getattr(node, "workeroutput", None)
        if output is None:
            self._time.lose_worker()
        else:
            self._take_digests(output.get(_WORKER_KEY, {}))
            self._time.take(output.get(_TIME_KEY, {}))

    def pytest_keyboard_interrupt(self) -> None:
        self._time.interrupt()

    def _take_digests(self, compared: dict[str, str]) -> None:
        for image, found in compared.items():
            self._hashed[image] = self._hashed.get(image) or found

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not (self._boots or self._checked or self._changed or self._incidents):
            return
        shown = Run.of(terminalreporter.config).evidence.shown

        def say(text: str, **markup: bool) -> None:
            terminalreporter.write_line(line(text), **markup)

        terminalreporter.write_sep("-", "virtual machines")
        for text in self._start_lines():
            say(text)
        self._time.take(Run.of(terminalreporter.config).stopwatch.take())
        elapsed = time.perf_counter() - self._session.began
        reports = chain.from_iterable(terminalreporter.stats.values())
        if told := self._time.line(elapsed, reports, workers=self._session.workers):
            say(told)
        if (wanted := terminalreporter.config.option.durations) is not None:
            for made in sorted([*self._boots, *self._layers], key=lambda made: -made["seconds"])[: wanted or None]:
                say(_duration(made))
        changed = {*self._changed, *(image for image, found in self._hashed.items() if found)}
        for complaint in sorted({*filter(None, self._hashed.values()), *self._changed.values()}):
            say(f"BASE IMAGE CHANGED: {complaint}", red=True, bold=True)
        for image, tests in sorted(self._checked.items()):
            if image in changed:
                continue
            host, place = _host_and_place(image)
            name, proof = Path(place).name, "identity, size and times"
            if is_url(place):
                name, proof = place, "size, what its server tells, and parts of it"
            if image in self._hashed:
                proof += "; SHA-256 at the end of the run"
            where = f" on {host}" if host else ""
            say(f"base {name}{where} unchanged after {count(tests, 'test')} ({proof})")
        for kept in self._kept:
            path = kept["path"]
            where = f" on {kept['host']}" if "host" in kept else ""
            say(f"kept overlay {path}{where} (boot it again: pytest --vm-image={shlex.quote(path)})")
            if kept["is_above_store"]:
                say("  its base is in the store of images; when that is gone, the same image brings it back there")
        for text in self._evidence_lines(shown, _folders_in_failures(terminalreporter)):
            say(text)

    def _evidence_lines(self, shown: Callable[[str], str], told: set[str]) -> Iterator[str]:
        """The folders that are not told of above, with the failures."""
        known = dict.fromkeys(folder for incident in self._incidents for folder in incident["folders"])
        folders = [folder for folder in known if folder not in told]
        for folder in folders[:_FOLDERS_SHOWN]:
            yield f"evidence: {shown(folder)}"
        if (more := len(folders) - _FOLDERS_SHOWN) > 0:
            yield f"evidence: {count(more, 'folder')} more"
        for complaint, times in Counter(c for incident in self._incidents for c in incident["complaints"]).items():
            yield f"{complaint}{f' ({times} times)' if times > 1 else ''}"

    def _start_lines(self) -> Iterator[str]:
        """One for each way in which machines came to be, then why not in a better one."""
        if not self._boots:
            yield "no machine started"
        for manner, words in _MANNERS.items():
            starts = [boot for boot in self._boots if boot["manner"] == manner]
            for host in dict.fromkeys(boot.get("host", "") for boot in starts):
                told = _start_line([boot for boot in starts if boot.get("host", "") == host], words)
                yield f"{host}: {told}" if host else told
        for what, words, is_cluster in (("layer", "made", False), ("cluster", "formed", True)):
            if made := [one["seconds"] for one in self._layers if one["is_cluster"] is is_cluster]:
                yield f"{count(len(made), what)} {words} in {sum(made):.2f} s"
        reasons = Counter(boot["reason"] for boot in self._boots if boot["reason"])
        for reason, machines in reasons.most_common():
            yield f"{machines} not cloned: {reason}"


def _host_and_place(image: str) -> tuple[str, str]:
    """Of an image that is known by its place, behind the name of its host if there are several."""
    if image.startswith("/") or is_url(image):
        return "", image
    host, _, place = image.partition(":")
    return host, place


def _start_line(starts: list[dict[str, Any]], words: str) -> str:
    seconds = [start["seconds"] for start in starts]
    how = " and ".join(sorted({start["accelerator"] for start in starts}))
    channels = " and ".join(sorted({start["channel"] for start in starts if start["channel"]}))
    how += f"; commands over {channels}" if channels else ""
    if len(seconds) == 1:
        return f"1 machine {words} in {seconds[0]:.2f} s with {how}"
    times = f"each in {statistics.median(seconds):.2f} s (median; slowest {max(seconds):.2f} s)"
    return f"{len(seconds)} machines {words}, {times}, with {how}"


def _duration(made: dict[str, Any]) -> str:
    """Of a start or a layer, as pytest tells those of tests."""
    details = ", ".join(f"{name} {seconds:.2f}" for name, seconds in made.get("phases", {}).items())
    details = made.get("layer", details)
    manner = made.get("manner", "cluster" if made.get("is_cluster") else "layer")
    return f"{made['seconds']:.2f}s {manner:<8} {made['name']}{f' ({details})' if details else ''}"


def _folders_in_failures(reporter: Any) -> set[str]:
    """The folders of evidence that the reports of failures name, as far as these are shown."""
    option = reporter.config.option
    if option.tbstyle in ("no", "line") or option.showcapture != "all":
        return set()
    reports = [*reporter.getreports("failed"), *reporter.getreports("error")]
    return {folder for report in reports for folder in (vars(report).get(INCIDENT) or {}).get("folders", ())}
