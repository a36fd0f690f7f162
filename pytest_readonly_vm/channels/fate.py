"""Owns the fate of a guest: whether it goes on, and the error for whoever waits for it if it does not."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.host.process import Process

T = TypeVar("T")

Cause = Callable[[], VmError]
"""Makes the error, anew for everybody who gets it, as each gets a traceback of its own."""


class Fate:
    """Wakes who waits for a guest as soon as there is nothing more to wait for. For the loop."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._blow: asyncio.Future[Cause] | None = None
        self._resets_expected = 0
        self.cause: Cause | None = None
        """What has stopped the guest, if something has and it did not go on since."""
        self.first_cause: Cause | None = None
        """The first of them all, even if the guest has booted anew since."""

    def befall(self, cause: Cause, *, passing: bool = False) -> None:
        """Wake everybody with this error; unless it is `passing`, also give it to those who come later."""
        self.first_cause = self.first_cause or cause
        if not passing and self.cause is None:
            self.cause = cause
        if self._blow is not None and not self._blow.done():
            self._blow.set_result(cause)
        self._blow = None

    def heal(self) -> None:
        """The guest goes on as if nothing had been."""
        if self.first_cause is self.cause:
            self.first_cause = None
        self.cause = None

    def begin_anew(self) -> None:
        """The guest boots again."""
        self.cause = None

    @contextlib.contextmanager
    def expecting_reset(self) -> Iterator[None]:
        """Let the guest be reset meanwhile, as somebody has asked for it."""
        self._resets_expected += 1
        try:
            yield
        finally:
            self._resets_expected -= 1

    @property
    def expects_reset(self) -> bool:
        return self._resets_expected > 0

    def check(self) -> None:
        """See whether the guest goes on.

        :raises GuestDied, GuestPaused: it does not.
        """
        if self.cause is not None:
            raise self.cause()

    async def race(self, work: Awaitable[T], *, anew: bool = False) -> T:
        """Await something that the guest has to do, unless it is stopped first, or had been, or QEMU ends.

        With `anew` it does not matter what had been. What loses is cancelled and left to itself: to take leave of a
        guest that does not answer may take long.

        :raises GuestDied, GuestPaused: it was.
        """
        task = asyncio.ensure_future(work)
        try:
            if not anew:
                self.check()
            cause = await self._blow_or(task)
            if cause is not None and not task.done():
                raise cause()
            return task.result()
        finally:
            _leave(task)

    async def news(self, event: asyncio.Event) -> None:
        """Wait for something that may come of a guest that stands still, too, unless it is stopped first, or QEMU ends.

        :raises GuestDied, GuestPaused: it was; also if the event is of the same moment.
        """
        task = asyncio.ensure_future(event.wait())
        try:
            if (cause := await self._blow_or(task)) is not None:
                raise cause()
        finally:
            _leave(task)

    async def _blow_or(self, task: asyncio.Future[Any]) -> Cause | None:
        """Wait for the task or for a blow; that, if it came."""
        if self._blow is None:
            self._blow = asyncio.get_running_loop().create_future()
        blow = self._blow
        await self._process.race(asyncio.wait((task, blow), return_when=asyncio.FIRST_COMPLETED))
        return blow.result() if blow.done() else None


def _leave(task: asyncio.Future[Any]) -> None:
    """Also of one that has failed in the same moment, of which asyncio would complain if nobody looked at its error."""
    task.cancel()
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
