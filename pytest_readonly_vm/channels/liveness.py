"""Owns the liveness of a guest: whether it goes on, and the error for whoever waits for it if it does not."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar

from pytest_readonly_vm.errors import ChannelLost, VmError
from pytest_readonly_vm.host.loop import Interruption, leave, unless
from pytest_readonly_vm.host.process import Process

T = TypeVar("T")

_MOMENT = 0.5  # seconds

Cause = Callable[[], VmError]
"""Makes the error, anew for everybody who gets it, as each gets a traceback of its own."""


class Liveness:
    """Wakes who waits for a guest as soon as there is nothing more to wait for. For the loop.

    All that can stop a guest is reported here, the end of QEMU included, so that one interruption ends every wait.
    """

    def __init__(self, process: Process) -> None:
        """`process` is QEMU's."""
        self._process = process
        self._interruption: Interruption | None = None
        self._resets_expected = 0
        self._stops_expected = 0
        self._rests_expected = 0
        self._end: Cause | None = None
        self._end_of_qemu: Cause | None = None
        self._standstill: Cause | None = None
        self._first: Cause | None = None
        self.halts = 0
        """How often it was heard to stop, which is known a little sooner than why."""
        self.look: Callable[[], None] = lambda: None
        """Has the crash detector see whether the guest runs: for states of which QEMU reports nothing."""
        self.faults: list[Callable[[Mapping[str, Any]], str | None]] = []
        """Those of disks that a test has put in: each says what it is, if a report of QEMU's is of what it does."""
        process.when_ended(self._lose_qemu)

    @property
    def cause(self) -> Cause | None:
        """What has stopped the guest, if something has and it did not go on since."""
        return self._end or self._end_of_qemu or self._standstill

    @property
    def trouble(self) -> Cause | None:
        """What has brought the guest to its end; one that has booted anew since, or was healed, the first time."""
        return self._end or self._first or self._end_of_qemu

    def report_end(self, cause: Cause, *, passing: bool = False) -> None:
        """Wake everybody with this error; unless it is `passing`, also give it to those who come later."""
        self._first = self._first or cause
        if not passing and self._end is None:
            self._end = cause
        self._wake(cause)

    def _lose_qemu(self) -> None:
        self._end_of_qemu = self._process.death
        self._wake(self._end_of_qemu)

    def stand_still(self, cause: Cause, *, is_trouble: bool) -> None:
        """Wake everybody with this error, and give it to those who come later, until the guest goes on.

        :param is_trouble: whether nobody has meant it.
        """
        if self._stops_expected > self._rests_expected:
            return
        self._standstill = cause
        if is_trouble:
            self._first = self._first or cause
        if not self._stops_expected:
            self._wake(cause)

    def _wake(self, cause: Cause) -> None:
        if self._interruption is not None:
            self._interruption.set_result(cause)
        self._interruption = None

    def go_on(self) -> None:
        """The guest runs again, as if it had not stood still."""
        if self._first is self._standstill:
            self._first = None
        self._standstill = None

    def begin_anew(self) -> None:
        """The guest boots again, or will as soon as it runs; whether it does is to be seen (see `look`)."""
        self._end = self._standstill = None

    @property
    def has_ended(self) -> bool:
        """Whether the guest has come to its end in a QEMU that may live: it goes on only if it boots anew."""
        return self._end is not None

    @property
    def stands_still(self) -> bool:
        """Whether it may go on, for whatever purpose it does not now."""
        return self._standstill is not None or self._stops_expected > 0

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

    @contextlib.contextmanager
    def expecting_stop(self, *, for_long: bool = False) -> Iterator[None]:
        """Let the guest stand still meanwhile, for a purpose of ours; whoever waits for it goes on waiting.

        :param for_long: whoever comes later is told all the same.
        """
        self._stops_expected += 1
        self._rests_expected += for_long
        try:
            yield
        finally:
            self._stops_expected -= 1
            self._rests_expected -= for_long

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
            await self.wait(task)
            return task.result()
        finally:
            leave(task)

    async def explained(self, work: Awaitable[T], patience: float = _MOMENT) -> T:
        """Await something, and tell of a channel that it loses why, if the guest comes to its end by that.

        :param patience: seconds by which the end of the channel may come first.
        :raises GuestDied, GuestPaused: it has.
        """
        try:
            return await work
        except ChannelLost:
            await self.race(asyncio.sleep(patience))  # a guest that goes down takes its programs along first
            raise

    async def wait(self, task: asyncio.Future[Any], timeout: float | None = None) -> None:
        """Wait for a task, or so many seconds, unless the guest is stopped first, or QEMU ends; the task goes on.

        :raises GuestDied, GuestPaused: it was, before the task was done.
        """
        interruption = self._next_interruption()
        await asyncio.wait((task, interruption), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if interruption.done() and not task.done():
            raise interruption.result()()

    async def news(self, event: asyncio.Event) -> None:
        """Wait for something that may come of a guest that stands still, too, unless it is stopped first, or QEMU ends.

        :raises GuestDied, GuestPaused: it was; also if the event is of the same moment.
        """
        interruption = self._next_interruption()
        await unless(interruption, event.wait())
        if interruption.done():
            raise interruption.result()()

    def _next_interruption(self) -> Interruption:
        """What ends the waits that begin now.

        :raises GuestDied: QEMU has ended.
        """
        if self._end_of_qemu is not None:
            raise self._end_of_qemu()
        if self._interruption is None:
            self._interruption = asyncio.get_running_loop().create_future()
        return self._interruption
