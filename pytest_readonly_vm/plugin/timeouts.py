"""Owns how long a test with a machine may take: a default timeout, by pytest-timeout, in which no boot counts.

Whatever timeout a test has, evidence is saved before it ends the run, as pytest-timeout's thread method does.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.plugin import markers
from pytest_readonly_vm.plugin.given import given_settings
from pytest_readonly_vm.printable import line

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.vm import VirtualMachine

_SLOWEST = 4.0
"""Until a machine shows by what it runs, it is taken for a slow one."""

_LAST_WORDS_PATIENCE = 20.0  # seconds

_TIMEOUT = "Timeout (>"
"""How a failure begins that is a timeout: as those of pytest-timeout 2.4, whatever the words of the version at hand."""

_clock = pytest.StashKey["TestClock"]()


class TestClock:
    """The time of one test that has no timeout of its own. Any thread may stop it, several at once too."""

    __test__ = False

    def __init__(self, config: VmConfig) -> None:
        self._lock = threading.Lock()
        self._timer: _Timer | None = None
        self._stops = 0
        self._spent = 0.0
        self._started = 0.0
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

    def begins(self, timer: "_Timer") -> None:
        """pytest-timeout wants the test to be ended by this."""
        with self._lock:
            self._timer, self._spent = timer, 0.0
            self._go_on()

    def ends(self) -> None:
        """The test is over, whatever its threads are doing yet."""
        with self._lock:
            self._timer = None

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Let no time pass for the test meanwhile."""
        with self._lock:
            if self._timer and not self._stops:
                self._timer.stop()
                self._spent += time.monotonic() - self._started
            self._stops += 1
        try:
            yield
        finally:
            with self._lock:
                self._stops -= 1
                self._go_on()

    def _go_on(self) -> None:
        if self._timer and not self._stops:
            self._started = time.monotonic()
            self._timer.start(round(max(self.total - self._spent, 0.1), 1))


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
        clock = item.stash[_clock] = TestClock(wanted)
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


def pending(machines: "Iterable[VirtualMachine]") -> list[str]:
    """What is waited for at this moment, of each machine what began first: the rest is a part of that."""
    known = [(vm.name, one) for vm in machines for one in vm.history.entries() if one.is_pending]
    now = time.time()
    return [
        f"{name}: waiting {round(now - one.time, 1):g} s for: {line(one.what)}"
        for name, one in dict(reversed(known)).items()
    ]


def _uses_machine(item: pytest.Item) -> bool:
    return any(name.startswith("readonly_vm") for name in getattr(item, "fixturenames", ()))


def set_timer(
    item: pytest.Item, settings: Any, *, before_failure: Callable[[], list[str]], before_end: Callable[[], None]
) -> bool | None:
    """As pytest-timeout's hook: a timer of our own, which lets us act before it ends the test or the process.

    :param before_failure: called on the main thread, before the signal method raises; gives lines to raise with.
    :param before_end: called on another thread, before the thread method ends the process; has 20 s.
    """
    if not _uses_machine(item):
        return None
    on_main_thread = threading.current_thread() is threading.main_thread()
    timer: _Timer
    if settings.method == "signal" and on_main_thread:
        timer = _Alarm(item, settings, before_failure)
    else:
        timer = _Watchdog(item, settings, before_end)
    clock = clock_of(item)

    def cancel() -> None:
        if clock is not None:
            clock.ends()
        timer.cancel()

    item.cancel_timeout = cancel  # type: ignore[attr-defined]
    if clock is not None:
        clock.begins(timer)
    else:
        timer.start(settings.timeout)
    return True


class _Timer(Protocol):
    """One of pytest-timeout's methods. Any thread may start and stop it again; it is cancelled for good."""

    def start(self, seconds: float) -> None: ...
    def stop(self) -> None: ...
    def cancel(self) -> None: ...


class _Alarm:
    """The signal method. Signals and their handlers are the main thread's; the time until one is anybody's."""

    def __init__(self, item: pytest.Item, settings: Any, before_failure: Callable[[], list[str]]) -> None:
        def handle(*_: object) -> None:
            __tracebackhide__ = True
            if not _is_debugging(settings):
                words = before_failure()
                _show_stacks(item.config.get_terminal_writer())
                pytest.fail("\n".join([f"{_TIMEOUT}{self._seconds}s) from pytest-timeout.", *words]))

        self._seconds = 0.0
        signal.signal(signal.SIGALRM, handle)

    def start(self, seconds: float) -> None:
        self._seconds = seconds
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def cancel(self) -> None:
        self.stop()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


class _Watchdog:
    """The thread method."""

    def __init__(self, item: pytest.Item, settings: Any, before_end: Callable[[], None]) -> None:
        self._item = item
        self._settings = settings
        self._before_end = before_end
        self._thread: threading.Timer | None = None

    def start(self, seconds: float) -> None:
        self._thread = threading.Timer(seconds, self._end_all, (seconds,))
        self._thread.daemon = True
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._thread.cancel()
            self._thread.join()

    cancel = stop

    def _end_all(self, seconds: float) -> None:
        import pytest_timeout

        if not _is_debugging(self._settings):
            speaking = threading.Thread(target=self._before_end, daemon=True)
            speaking.start()
            speaking.join(_LAST_WORDS_PATIENCE)
            pytest_timeout.timeout_timer(self._item, self._settings._replace(timeout=seconds))


def _show_stacks(terminal: Any) -> None:
    """Show where the test's own threads are; as pytest-timeout does with all, but ours, which tell nobody anything."""
    from pytest_readonly_vm.host.loop import OUR_THREADS

    frames = sys._current_frames()
    for thread in threading.enumerate():
        is_own = thread is threading.main_thread() or thread.name.startswith(OUR_THREADS)
        if not is_own and thread.ident in frames:
            terminal.sep("~", title=f"Stack of {thread.name}")
            terminal.write("".join(traceback.format_stack(frames[thread.ident])))


def _is_debugging(settings: Any) -> bool:
    import pytest_timeout

    return not settings.disable_debugger_detection and bool(pytest_timeout.is_debugging())
