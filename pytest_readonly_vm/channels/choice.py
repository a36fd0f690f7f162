"""Owns the choice of the channel by which a machine is used: the first that answers, and what is said if none does."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from pytest_readonly_vm.channels.channel import Channel
from pytest_readonly_vm.channels.console import Console
from pytest_readonly_vm.errors import ChannelError, ChannelLost, GuestDied
from pytest_readonly_vm.host.loop import cancel, leave, quiet
from pytest_readonly_vm.host.process import Process

PATIENCE = 60.0
"""Seconds that a channel has to answer when somebody wants to use it."""

_LEAD = 2.0
"""Seconds by which another channel must be earlier than the usual one to be taken in its place."""


class ChannelChoice:
    """The channels that one machine may have, and the one that it has. For the loop."""

    def __init__(
        self,
        channels: Mapping[str, Channel],
        process: Process,
        console: Console,
        name: str,
        *,
        usual: str | None = None,
    ) -> None:
        """`usual` is the channel that answered first for such a machine before: it is waited for a little longer."""
        self._channels = dict(channels)
        self._process = process
        self._console = console
        self._name = name
        self._usual = usual
        self._search: asyncio.Task[Channel] | None = None
        self._is_closed = False
        self.before_use: Callable[[Channel], Awaitable[object]] | None = None
        """What is to be done over a channel that has answered, before anybody has it, until it is None again."""

    @property
    def found(self) -> Channel | None:
        """The channel that answered, unless it has been lost since: to be used at once."""
        search = self._search
        if self._is_closed or search is None or not search.done() or search.cancelled() or search.exception():
            return None
        channel = search.result()
        return channel if channel.is_open() else None

    @property
    def is_possible(self) -> bool:
        """Whether there is any channel to wait for."""
        return bool(self._channels)

    async def channel(self, timeout: float = PATIENCE, *, only: str | None = None) -> Channel:
        """The channel that answered, or the first that does; with `only` this one and from then on no other.

        :raises ChannelError: none answered within `timeout` seconds; the message says of each why not.
        :raises GuestDied: QEMU ended.
        """
        if (found := self.found) is not None and only in (None, found.name):
            return found
        if not self._channels:
            raise ChannelError(f"{self._name}: there is no channel to the guest, as channel=none says")
        if only is not None and self._channels.keys() != {only}:
            if only not in self._channels:
                raise ChannelError(f"{self._name}: the setting channel does not allow {only}")
            for other in set(self._channels) - {only}:
                await self._channels.pop(other).close()
            self.lose()
        try:
            async with asyncio.timeout(timeout):
                while not self._is_closed:
                    search = self._search
                    if search is None or (search.done() and self.found is None):
                        search = self._begin_to_search(self._first_to_use())
                    await self._process.race(asyncio.wait((search,)))
                    if not search.cancelled():  # as by somebody else who has lost the channel meanwhile
                        return search.result()
        except TimeoutError:
            raise self._silence(f"no channel answered in {timeout:g} s") from None
        raise GuestDied(f"{self._name}: the machine has been closed")

    def _begin_to_search(self, search: Coroutine[Any, Any, Channel]) -> asyncio.Task[Channel]:
        """It is one for all who want a channel, so it goes on if one of them gives up."""
        self._search = quiet(asyncio.ensure_future(search))
        return self._search

    async def answers(self, patience: float) -> bool | None:
        """Whether the guest answers over the channel in use within so many seconds; None if there is none."""
        if (channel := self.found) is None:
            return None
        asked = asyncio.ensure_future(channel.execute(b":", input=b"", stdout=bytes, stderr=bytes))
        try:
            await asyncio.wait((asked,), timeout=patience)
            if not asked.done():
                return False
            return None if asked.exception() else True
        finally:
            leave(asked)

    async def resume(self, name: str, parted: Mapping[str, Any]) -> None:
        """Go on with a conversation that the guest had when it was copied. Whether it does is up to the first use."""
        channel = self._channels[name]

        async def resumed() -> Channel:
            await channel.resume(parted)
            return channel

        await self._begin_to_search(resumed())

    async def part(self) -> tuple[str, Mapping[str, Any]] | None:
        """The name of the channel in use and what a copy of the guest needs to go on with it, if it can."""
        if (channel := self.found) is None:
            return None
        parted = await channel.part()
        return None if parted is None else (channel.name, parted)

    async def _first_to_use(self) -> Channel:
        channel = await self._first()
        if self.before_use is not None:
            await self.before_use(channel)
        return channel

    async def _first(self) -> Channel:
        """Open all; when one has answered, the others are left alone."""
        tasks = {asyncio.ensure_future(_opened(channel)): channel for channel in self._channels.values()}
        try:
            pending = set(tasks)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if any(not task.exception() for task in done):
                    usual = {task for task in pending if tasks[task].name == self._usual}
                    if usual:
                        done |= (await asyncio.wait(usual, timeout=_LEAD))[0]
                    # In the order of the channels, as a set of tasks that are done in the same moment has none.
                    answered = [channel for task, channel in tasks.items() if task in done and not task.exception()]
                    return min(answered, key=lambda channel: channel.name != self._usual)
            raise self._silence("no channel answered")
        finally:
            await cancel(*tasks)

    def why_none(self) -> str:
        """Of each channel, why it has not answered."""
        return "; ".join(f"{name}: {channel.why_not()}" for name, channel in self._channels.items())

    def _silence(self, what: str) -> ChannelError:
        error = ChannelError(f"{self._name}: {what}: {self.why_none()}")
        error.add_note(f"Last console lines:\n{self._console.tail() or '(silent)'}")
        return error

    async def opened(self, channel: Channel, timeout: float = PATIENCE) -> None:
        """Open one more channel beside the one in use.

        :raises ChannelError: it does not answer within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._process.race(_opened(channel))
        except TimeoutError:
            raise ChannelError(
                f"{self._name}: {channel.name} did not answer in {timeout:g} s: {channel.why_not()}"
            ) from None

    def lose(self) -> None:
        """The channel is gone: the next use looks for one anew."""
        if self._search is not None:
            self._search.cancel()
        self._search = None

    async def close(self) -> None:
        self._is_closed = True
        if self._search is not None:
            await cancel(self._search)
        for channel in self._channels.values():
            await channel.close()


async def _opened(channel: Channel) -> None:
    """Open a channel, again when the guest ends it meanwhile, as by a reboot in the course of its first boot."""
    while True:
        with contextlib.suppress(ChannelLost):
            return await channel.open()
