"""Owns the moment from which a run has a use for machines. Until then nothing of what they need is imported.

That moment is the start, if a setting is given; the end of the collection, if a test has a fixture or a marker of ours,
or if something of ours was imported; for xdist's controller the first news of machines from a worker. What is left are
tests that ask for a fixture, or import something, while they run: then the hooks hear late of what they have missed.
"""

import os
import sys
import time
from collections.abc import Generator
from typing import Any

import pytest

_FIXTURES = ("readonly_vm", "vm_")
"""How the names of our fixtures begin."""
_NEWS = "readonly_vm"
"""How what is ours begins among the attributes of a report."""
_IMPORTED = "pytest_readonly_vm.errors"
"""What has been imported where anybody has imported something of ours that can fail."""
_RUN_KEY = "readonly_vm_run"

_door = pytest.StashKey["Door"]()


class Door:
    """Of one pytest process."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._run_name: str = getattr(config, "workerinput", {}).get(_RUN_KEY) or os.urandom(8).hex()
        self._earlier: set[Any] | None = None
        """The plugins that were there before those of ours, once it is open."""
        self._session: pytest.Session | None = None
        self._test: tuple[pytest.Item, pytest.Item | None] | None = None
        """The one that runs, and the next."""
        self._hosts: Any = None
        """Those on which workers are, if these are elsewhere."""
        self.began = 0.0
        """When the session did, by `time.perf_counter`."""
        self.workers = 0
        """How many of xdist there are at a time."""
        config.stash[_door] = self

    @classmethod
    def of(cls, config: pytest.Config) -> "Door":
        return config.stash[_door]

    @property
    def is_open(self) -> bool:
        return self._earlier is not None

    def open(self) -> None:
        """Have all our hooks called from now on.

        :raises pytest.UsageError: a setting is wrong.
        """
        from pytest_readonly_vm.plugin.unrewritten import import_unrewritten

        import_unrewritten(self._config)
        from pytest_readonly_vm.plugin.hooks import begin

        earlier = self._config.pluginmanager.get_plugins()
        begin(self._config, self._run_name, self)
        self._earlier = earlier
        if self._session is not None:
            self._tell("pytest_sessionstart", session=self._session)

    def open_within_test(self) -> None:
        """The same, if it is not open, for a fixture that a test did not name beforehand."""
        if not self.is_open:
            self.open()
            if self._test is not None:
                item, following = self._test
                self._tell("pytest_runtest_protocol", item=item, nextitem=following)
                self._tell("pytest_runtest_setup", item=item)

    def look_over(self, items: list[pytest.Item]) -> None:
        """All tests are collected, and a ``conftest.py`` has done with them what it wanted.

        :raises pytest.UsageError: a marker is wrong.
        """
        if not self.is_open and (_IMPORTED in sys.modules or any(map(_wants_machine, items))):
            self.open()
        if self.is_open:
            from pytest_readonly_vm.plugin.hooks import look_over

            look_over(self._config, items)

    def _tell(self, hook: str, **arguments: object) -> None:
        """Call a hook that pytest is calling, or has called, for those alone who have come in the meantime."""
        self._config.pluginmanager.subset_hook_caller(hook, self._earlier or ())(**arguments)

    # As a plugin.

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> Generator[None, object, object]:
        self.began = time.perf_counter()
        self._session = session
        try:
            return (yield)
        except Exception as error:  # execnet's own is known by its name, so that it need not be there
            is_of_a_host = isinstance(error, EOFError | OSError) or type(error).__name__ == "HostNotFound"
            if self._hosts is None or not is_of_a_host:
                raise
            raise pytest.UsageError(self._hosts.why_no_worker(error)) from None

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_xdist_setupnodes(self, specs: list[Any]) -> None:
        copies = self._config.getoption("rsyncdir", None) or self._config.getini("rsyncdirs")  # that is xdist's affair
        if not copies and any(spec.ssh or spec.vagrant_ssh for spec in specs):
            if not self.is_open:
                self.open()
            from pytest_readonly_vm.plugin.hosts.controller import Hosts  # which other runs are not to pay for

            self._hosts = Hosts(self._config)
            self._config.pluginmanager.register(self._hosts, "readonly_vm hosts")
            self._hosts.admit(specs)
        self.workers = len(specs)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Of xdist, for each worker: all processes of a run are to have the same name for it."""
        node.workerinput[_RUN_KEY] = self._run_name

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, report: pytest.TestReport) -> None:
        """Of xdist, which has the node id of a test whose worker died as it was for the scheduler."""
        from pytest_readonly_vm.plugin.distribution.shards import without_group

        report.nodeid = without_group(report.nodeid)
        report.longrepr = without_group(str(report.longrepr))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        self._test = item, nextitem

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        was_open = self.is_open
        try:
            result = yield
        finally:
            if _IMPORTED in sys.modules:  # before pytest shows the error, which may be ours
                self.open_within_test()
        if self.is_open and not was_open:
            self._tell("pytest_runtest_call", item=item)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not self.is_open and any(name.startswith(_NEWS) for name in vars(report)):
            self.open()
            self._tell("pytest_runtest_logreport", report=report)


def _wants_machine(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())
    return any(name.startswith(_FIXTURES) for name in names) or item.get_closest_marker("vm") is not None
