"""Owns machines that are started before anybody wants them, while a test runs that leaves the computer time for it."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from pytest_readonly_vm.config import VmConfig
from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.machine.instance import Instance


class Prefetch:
    """The machines that are on their way or ready, each for one configuration. Any thread may call."""

    def __init__(self, start: Callable[[VmConfig, str], Instance], discard: Callable[[Instance], None]) -> None:
        """`start` makes a machine of a name, or raises `VmError` when there is no room for one before its time."""
        self._start = start
        self._discard = discard
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="readonly-vm prefetch")
        self._coming: list[tuple[VmConfig, Future[Instance]]] = []

    def expect(self, config: VmConfig, names: list[str]) -> None:
        """Have a machine of this configuration for each name, and none of any other."""
        with self._lock:
            self._drop([one for one in self._coming if one[0] != config])
            for name in names[len(self._coming) :]:
                self._coming.append((config, self._thread.submit(self._start, config, name)))

    def take(self, config: VmConfig) -> Instance | None:
        """The machine that was expected for a configuration, once it is there; None if there is none."""
        with self._lock:
            found = next((one for one in self._coming if one[0] == config), None)
            if found is None:
                return None
            self._coming.remove(found)
        with contextlib.suppress(VmError):
            instance = found[1].result()
            if instance.process.returncode is None:
                return instance
            self._discard(instance)
        return None

    def close(self) -> None:
        """End what nobody wanted."""
        with self._lock:
            self._drop(list(self._coming))
        self._thread.shutdown()

    def _drop(self, unwanted: list[tuple[VmConfig, Future[Instance]]]) -> None:
        for one in unwanted:
            self._coming.remove(one)
            if not one[1].cancel():
                self._thread.submit(self._end, one[1])

    def _end(self, started: Future[Instance]) -> None:
        with contextlib.suppress(VmError):
            self._discard(started.result())
