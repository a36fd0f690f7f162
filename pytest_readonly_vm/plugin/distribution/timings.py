"""Owns how long tests have taken: a file of earlier runs, and what a run adds to it.

The file is JSON, the seconds of each test by its node id, as pytest-split has it. What it takes to make the template of
a kind is not part of any test's: which one comes first is another in each shard. It has an entry of its own, which
pytest-split passes over, as no test is called so.
"""

import math
from collections import defaultdict
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.host.stopwatch import Part
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.plugin.distribution.kinds import name_of_kind, wishes
from pytest_readonly_vm.plugin.given import given_settings
from pytest_readonly_vm.plugin.news import NEWS, News
from pytest_readonly_vm.printable import count, line

_TEMPLATE = "readonly-vm template "
"""How the entries begin that are of no test."""
_ATTRIBUTE = "readonly_vm_timing"
"""Of a report: what of its duration is the test's own, and what is not."""
_KEY = "readonly_vm_timings"
_STORED_KEY = "readonly_vm_store_timings"
_LARGEST = 64 << 20
_MAKING = (Part.BOOTING.value, Part.LAYERS.value)
_NOT_OWN = (*_MAKING, Part.OTHERS.value, Part.ROOM.value, Part.IMAGES.value, Part.KEPT.value)
"""What a test has to wait for because it is the first, or because of others."""

_read = pytest.StashKey["Timings"]()


@dataclass(slots=True)
class Timings:
    """Seconds."""

    tests: dict[str, float] = field(default_factory=dict)
    """By node id."""
    templates: dict[str, float] = field(default_factory=dict)
    """What it took to make those of a kind, by the kind's name."""

    @classmethod
    def of(cls, entries: Mapping[str, float]) -> "Timings":
        """What a file's entries say."""
        timings = cls()
        for name, seconds in entries.items():
            if name.startswith(_TEMPLATE):
                timings.templates[name.removeprefix(_TEMPLATE)] = seconds
            else:
                timings.tests[name] = seconds
        return timings

    def entries(self) -> dict[str, float]:
        return self.tests | {_TEMPLATE + name: seconds for name, seconds in self.templates.items()}

    def update(self, other: "Timings") -> None:
        """Take over what another knows."""
        self.tests |= other.tests
        self.templates |= other.templates


def timings_of(config: pytest.Config) -> Timings:
    """Those that a run began with, the same in all of its processes."""
    return config.stash.get(_read, None) or Timings()


def read_timings(path: Path) -> Timings:
    """Those in a file; none if it is not there.

    :raises ConfigurationError: it cannot be read, or is no such file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return Timings()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise ConfigurationError(f"{path}: it has more than {_LARGEST >> 20} MiB, and is no file of durations")
    return read_entries(content, str(path))


def read_entries(content: bytes, origin: str) -> Timings:
    """What a file has in it.

    :raises ConfigurationError: it is no file of durations.
    """
    import json  # which only who has such a file is to pay for

    try:
        entries = json.loads(content)
        if isinstance(entries, list):  # as old releases of pytest-split have it
            entries = dict(entries)
    except (ValueError, TypeError, RecursionError):
        raise ConfigurationError(f"{origin}: it is no file of durations: not JSON") from None
    if not isinstance(entries, dict):
        raise ConfigurationError(f"{origin}: it is no file of durations: not an object with seconds by node id")
    for name, seconds in entries.items():
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not (isinstance(name, str) and is_number and 0 <= seconds <= _LARGEST and math.isfinite(seconds)):
            what = line(f"{name!r}: {seconds!r}")[:200]
            raise ConfigurationError(f"{origin}: it is no file of durations: {what} is no number of seconds")
    return Timings.of({name: float(seconds) for name, seconds in entries.items()})


def written(timings: Timings) -> bytes:
    """The content of a file, in an order of which version control shows what has changed."""
    import json

    rounded = {name: round(seconds, 4) for name, seconds in timings.entries().items()}
    return f"{json.dumps(rounded, sort_keys=True, indent=4)}\n".encode()


class Clerk:
    """Reads the file when a run begins, and writes it when it ends, if that is wanted."""

    def __init__(self, config: pytest.Config, output_guard: OutputGuard) -> None:
        """:raises pytest.UsageError: the file is damaged, or there is none to write."""
        given = given_settings(config)
        self._config = config
        self._output_guard = output_guard
        self._path = cast(Path | None, given["durations"].value if "durations" in given else None)
        self._is_written = bool(given["store_durations"].value) if "store_durations" in given else False
        self._timings = Timings()
        self._tests: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self._problem: OSError | ConfigurationError | None = None
        self._is_worker = hasattr(config, "workerinput")
        if self._is_written and self._path is None and not self._is_worker:
            raise pytest.UsageError(
                f"{given['store_durations'].origin}: store_durations needs a file, and there is none; "
                "give --vm-durations=FILE"
            )
        if self._is_worker:
            worker: Any = config
            config.stash[_read] = read_entries(worker.workerinput.get(_KEY, "{}").encode(), "xdist's controller")
            self._is_written = bool(worker.workerinput.get(_STORED_KEY))
        elif self._path is not None:
            try:
                config.stash[_read] = read_timings(self._path)
            except ConfigurationError as error:
                raise pytest.UsageError(f"{given['durations'].origin}: {error}") from None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Of xdist: a worker may be on a computer without the file, and all are to decide by the same."""
        import json  # which xdist has loaded

        # As text, since a name may have what execnet takes for none: a file's name need not be UTF-8.
        node.workerinput[_KEY] = json.dumps(timings_of(self._config).entries())
        node.workerinput[_STORED_KEY] = self._is_written

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if self._is_written:
            news: News | None = vars(report).get(NEWS)
            during = news["during"] if news else {}
            vars(report)[_ATTRIBUTE] = {
                "test": plain_id(item),
                "own": report.duration - sum(during.get(part, 0.0) for part in _NOT_OWN),
                "making": sum(during.get(part, 0.0) for part in _MAKING),
                "kind": name_of_kind(wishes(item)) if any(part in during for part in _MAKING) else "",
            }
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        timing = vars(report).get(_ATTRIBUTE)
        if timing is None or self._is_worker:
            return
        if report.when == "setup":  # it may be repeated
            self._tests[timing["test"]] = {}
        self._tests[timing["test"]][str(report.when)] = max(timing["own"], 0.0)
        if timing["kind"]:
            known = self._timings.templates.get(timing["kind"], 0.0)
            self._timings.templates[timing["kind"]] = max(known, timing["making"])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Write the file, all of it or nothing; a failure is told in the summary and changes no outcome."""
        if not self._is_written or self._is_worker or self._path is None or not self._tests:
            return
        self._timings.tests = {test: sum(phases.values()) for test, phases in self._tests.items()}
        try:
            timings = read_timings(self._path)  # again: another run may have written it meanwhile
            timings.update(self._timings)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._output_guard.file(self._path) as file:
                file.write(written(timings))
        except (OSError, ConfigurationError) as error:
            self._problem = error

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self._is_written or self._is_worker or not self._tests:
            return
        if self._problem is None:
            told = f"durations: {self._path} has those of {count(len(self._tests), 'test')} of this run"
            terminalreporter.write_line(line(told))
        else:
            why = getattr(self._problem, "strerror", None) or self._problem
            terminalreporter.write_line(line(f"durations: {self._path} could not be written: {why}"), yellow=True)


def plain_id(item: pytest.Item) -> str:
    """A test's node id, without what xdist appends for a mark of the user's."""
    nodeid = item.nodeid
    is_grouped = getattr(item.config.option, "loadgroup", False) and item.get_closest_marker("xdist_group") is not None
    return nodeid.rpartition("@")[0] if is_grouped and nodeid.rfind("@") > nodeid.rfind("]") else nodeid
