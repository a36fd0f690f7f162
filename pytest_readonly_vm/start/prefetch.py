"""Owns machines that are started before anybody wants them, while a test runs that leaves the computer time for it."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import VmError

_AT_ONCE = 2
"""More do not start faster: a guest that goes on keeps a CPU busy at first."""


class Ahead(Protocol):
    """A machine, or a cluster of them, that nobody has yet."""

    @property
    def is_alive(self) -> bool:
        """Whether no QEMU of it has ended."""


T = TypeVar("T", bound=Ahead)


class Prefetch(Generic[T]):
    """The machines that are on their way or ready, each for one configuration and name. Any thread may call."""

    def __init__(self, start: Callable[[VmConfig, str], T], discard: Callable[[T], None]) -> None:
        """`start` makes one of a name, or raises `VmError` when there is no room for one before its time."""
        self._start = start
        self._discard = discard
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="readonly-vm prefetch")
        self._coming: dict[tuple[VmConfig, str], Future[T]] = {}

    def expect(self, wanted: Sequence[tuple[VmConfig, str]]) -> None:
        """Have these machines, and no other."""
        with self._lock:
            for one in self._coming.keys() - set(wanted):
                self._drop(self._coming.pop(one))
            for one in wanted:
                if one not in self._coming:
                    self._coming[one] = self._threads.submit(self._start, *one)

    def take(self, config: VmConfig, name: str, *, is_wanted: Callable[[], bool]) -> T | None:
        """The machine that was expected, once it is there; None if none was, it could not be had or is not wanted.

        Raises what `is_wanted` does; nobody has the machine then.
        """
        with self._lock:
            found = self._coming.pop((config, name), None)
        # One that has not been begun waits behind others. What has failed, if only in a layer, is tried by the test.
        if found is None or found.cancel() or found.exception() is not None:
            return None
        ahead = found.result()
        try:
            if ahead.is_alive and is_wanted():
                return ahead
        except BaseException:
            with contextlib.suppress(VmError):  # that it does not end well is not what went wrong
                self._discard(ahead)
            raise
        self._discard(ahead)
        return None

    def close(self) -> None:
        """End what nobody wanted."""
        self.expect(())
        self._threads.shutdown()

    def _drop(self, started: Future[T]) -> None:
        if not started.cancel():
            self._threads.submit(self._end, started)

    def _end(self, started: Future[T]) -> None:
        if started.exception() is None:
            with contextlib.suppress(VmError):
                self._discard(started.result())
