"""Owns how long a test with a machine may take: a default timeout, by pytest-timeout, in which no boot counts.

Whatever timeout a test has, evidence is saved before it ends the run, as pytest-timeout's thread method does.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_readonly_vm.config import VmConfig
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.plugin import markers
from pytest_readonly_vm.plugin.options import given_settings

_SLOWEST = 4.0
"""Until a machine shows by what it runs, it is taken for a slow one."""

_LAST_WORDS_PATIENCE = 20.0  # seconds

_TIMEOUT = "Timeout (>"  # how pytest-timeout's failures begin

_clock = pytest.StashKey["TestClock"]()


class TestClock:
    """The time of one test that has no timeout of its own."""

    __test__ = False

    def __init__(self, item: pytest.Item, config: VmConfig) -> None:
        self._item = item
        self._spent = 0.0
        self._started: float | None = None
        self._settings: Any = None
        self._explanation = ""
        self.take_over(config, float(config.timeout_factor) if config.timeout_factor != "auto" else _SLOWEST)

    def take_over(self, config: VmConfig, slowness: float) -> None:
        """From now on, what a machine of this configuration has counts."""
        self.total = config.test_timeout * slowness
        times = f", times {slowness:g} as guests are slow here" if slowness != 1 else ""
        self._explanation = (
            f"The test has no timeout of its own, so it may take {self.total:g} s, boots apart (test_timeout, from "
            f"{config.origin('test_timeout')}: {config.test_timeout:g} s{times}). Another: "
            "@pytest.mark.timeout(SECONDS), @pytest.mark.vm(test_timeout=SECONDS), --vm-test-timeout=SECONDS."
        )

    def explain(self) -> str:
        """Where the number comes from, and how to have another."""
        return self._explanation

    def begins(self, settings: Any) -> None:
        """pytest-timeout has started its timer, with these settings."""
        self._settings = settings
        self._started = time.monotonic()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Let no time pass for the test meanwhile."""
        if self._started is None:
            yield
            return
        hook = self._item.config.hook
        hook.pytest_timeout_cancel_timer(item=self._item)
        self._spent += time.monotonic() - self._started
        self._started = None
        try:
            yield
        finally:
            left = round(max(self.total - self._spent, 0.1), 1)
            hook.pytest_timeout_set_timer(item=self._item, settings=self._settings._replace(timeout=left))


def give_default(item: pytest.Item) -> None:
    """Give a test with a machine a timeout, if it has none."""
    config = item.config
    if not config.pluginmanager.hasplugin("timeout") or not _uses_machine(item):
        return
    has_one = item.get_closest_marker("timeout") or config.getoption("timeout", None) is not None
    if has_one or os.environ.get("PYTEST_TIMEOUT") or config.getini("timeout"):
        return
    with contextlib.suppress(ConfigurationError):  # which the test's fixtures will tell
        wanted = markers.applied(VmConfig().with_settings(given_settings(config)), item)
        clock = item.stash[_clock] = TestClock(item, wanted)
        item.add_marker(pytest.mark.timeout(clock.total))


def clock_of(item: pytest.Item | None) -> TestClock | None:
    """The clock of a test, if it is ours."""
    return None if item is None else item.stash.get(_clock, None)


def is_timeout(error: BaseException) -> bool:
    """Whether it is how pytest-timeout ends a test."""
    return isinstance(error, pytest.fail.Exception) and str(error).startswith(_TIMEOUT)


def explanation(item: pytest.Item, failure: str) -> str | None:
    """What is to be said of a failure that is a timeout of ours."""
    clock = clock_of(item)
    return clock.explain() if clock is not None and _TIMEOUT in failure else None


def _uses_machine(item: pytest.Item) -> bool:
    return any(name.startswith("readonly_vm") for name in getattr(item, "fixturenames", ()))


def set_timer(
    item: pytest.Item, settings: Any, *, before_failure: Callable[[], None], before_end: Callable[[], None]
) -> bool | None:
    """As pytest-timeout's hook: a timer of our own, which lets us act before it ends the test or the process.

    :param before_failure: called on the main thread, before the signal method raises.
    :param before_end: called on another thread, before the thread method ends the process; has 20 s.
    """
    clock = clock_of(item)
    if clock is not None:
        clock.begins(settings)
    if not _uses_machine(item):
        return None
    import pytest_timeout

    def is_debugging() -> bool:
        return not settings.disable_debugger_detection and bool(pytest_timeout.is_debugging())

    if settings.method == "signal" and threading.current_thread() is threading.main_thread():

        def handle(*_: object) -> None:
            __tracebackhide__ = True
            if not is_debugging():
                before_failure()
                pytest_timeout.timeout_sigalrm(item, settings)

        def disarm() -> None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)

        item.cancel_timeout = disarm  # type: ignore[attr-defined]
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, settings.timeout)
        return True

    def fire() -> None:
        if not is_debugging():
            speaking = threading.Thread(target=before_end, daemon=True)
            speaking.start()
            speaking.join(_LAST_WORDS_PATIENCE)
            pytest_timeout.timeout_timer(item, settings)

    timer = threading.Timer(settings.timeout, fire)
    timer.daemon = True

    def cancel() -> None:
        timer.cancel()
        timer.join()

    item.cancel_timeout = cancel  # type: ignore[attr-defined]
    timer.start()
    return True
