"""Owns what those who look on are told of work that takes long: once a second, and when a boot enters another phase."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_readonly_vm.guest.stages import Phases
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.watch import Show, Watch
from pytest_readonly_vm.printable import tail
from pytest_readonly_vm.qemu.instance import Instance

_PERIOD = 1.0  # seconds; what ends sooner is not shown
_SILENCE = 5.0  # seconds after which the last line is not what is going on: many guests boot with "quiet"
_LOOKED_AT = 2_000  # characters at the end of the console


class _Work:
    """Something that goes on. All on the loop's thread."""

    def __init__(self, what: str, loop: asyncio.AbstractEventLoop, show: Show) -> None:
        self._what = what
        self._loop = loop
        self._show = show
        self._since = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self._timer = self._loop.call_later(_PERIOD, self._tick)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_PERIOD, self._tick)
        self.tell()

    def tell(self) -> None:
        if (seconds := time.monotonic() - self._since) >= _PERIOD:
            self._show(f"{self._what}: {seconds:.0f} s{self.details()}")

    def details(self) -> str:
        return ""

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class _Boot(_Work):
    """A boot, whose console tells more."""

    def __init__(self, instance: Instance, loop: asyncio.AbstractEventLoop, show: Show) -> None:
        super().__init__(f"booting {instance.name}", loop, show)
        self._instance = instance
        self._phases = Phases()
        self._heard = time.monotonic()

    def begin(self) -> None:
        super().begin()
        self._phases.read(self._instance.console.since(0))
        self._instance.console.listeners.append(self._read)

    def _read(self, text: str) -> None:
        self._heard = time.monotonic()
        if self._phases.read(text):
            self.tell()

    def details(self) -> str:
        console = self._instance.console
        answers = "its channel answers" if self._instance.channels.found is not None else ""
        lines = tail(console.since(max(console.position - _LOOKED_AT, 0)), 1)
        last = lines[0].strip() if lines else "nothing on its console so far"
        if lines and (silent := time.monotonic() - self._heard) >= _SILENCE:
            last = f"silent for {silent:.0f} s after {last}"
        return f"{''.join(f', {words}' for words in (self._phases.current, answers) if words)}: {last}"

    def end(self) -> None:
        super().end()
        self._instance.console.listeners.remove(self._read)


@contextmanager
def watched_boot(watch: Watch, instance: Instance, loop: LoopThread) -> Iterator[None]:
    """While a guest boots."""
    is_users = not isinstance(instance.config.ready, str)
    with watch(is_users) as show, _going_on(show and _Boot(instance, loop.loop, show), loop):
        yield


@contextmanager
def watched_layer(watch: Watch, layer: str, loop: LoopThread) -> Iterator[None]:
    """While a layer is made."""
    with watch(True) as show, _going_on(show and _Work(f"making layer {layer}", loop.loop, show), loop):
        yield


@contextmanager
def _going_on(work: _Work | None, loop: LoopThread) -> Iterator[None]:
    if work is None:
        yield
        return
    loop.loop.call_soon_threadsafe(work.begin)
    try:
        yield
    finally:
        loop.loop.call_soon_threadsafe(work.end)
