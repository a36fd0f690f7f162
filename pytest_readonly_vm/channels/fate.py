"""Owns the fate of a guest: whether it goes on, and the error for whoever waits for it if it does not."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

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

    async def race(self, work: Awaitable[T]) -> T:
        """Await something, unless the guest is stopped first, or QEMU ends.

        What loses is cancelled and left to itself: to take leave of a guest that does not answer may take long.

        :raises GuestDied, GuestPaused: it was, or had been.
        """
        if self.cause is not None:
            asyncio.ensure_future(work).cancel()
            raise self.cause()
        return await self.race_anew(work)

    async def race_anew(self, work: Awaitable[T]) -> T:
        """As `race`, for what a guest that stands still does not stand in the way of."""
        if self._blow is None:
            self._blow = asyncio.get_running_loop().create_future()
        task, blow = asyncio.ensure_future(work), self._blow
        try:
            await self._process.race(asyncio.wait((task, blow), return_when=asyncio.FIRST_COMPLETED))
            if not task.done():
                raise blow.result()()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
