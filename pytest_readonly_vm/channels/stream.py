"""Owns a byte stream to a program in the guest, as a socket of ours leads to it, and the news when it leads nowhere."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from pytest_readonly_vm.errors import ChannelError, ChannelLost
from pytest_readonly_vm.host.loop import Interruption, unless
from pytest_readonly_vm.host.process import Process

T = TypeVar("T")

_LONGEST_LINE = 128 << 20  # bytes
_MOMENT = 0.05  # seconds by which the end of a stream may come before the end of QEMU that explains it


class Stream:
    """The host's end of one stream. Everything is for the loop."""

    def __init__(self, process: Process, line: socket.socket, *, name: str, loss: str, patience: float) -> None:
        """`process` is QEMU, `name` the machine's for messages.

        :param loss: what has become of the guest's end when it went away.
        :param patience: seconds that QEMU has to end when `line` has: that may be why.
        """
        self._process = process
        self._line = line
        self._name = name
        self._loss = loss
        self._patience = patience
        self._next_loss: Interruption | None = None
        self._connecting = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.losses = 0
        """How often the guest's end went away."""

    def lose(self) -> None:
        """The guest's end went away just now."""
        self.losses += 1
        if self._next_loss is not None:
            self._next_loss.set_result(self.loss)
        self._next_loss = None

    async def race(self, work: Coroutine[Any, Any, T], *, since: int) -> T:
        """Await something that needs the guest's end of the stream, and that ends at once when it is cancelled.

        :param since: what `losses` was when the guest answered there.
        :raises ChannelLost: it went away since then: the guest rebooted, or the program that had it ended.
        :raises GuestDied: QEMU ended first, which ends its streams as well.
        """
        if self._next_loss is None:
            self._next_loss = asyncio.get_running_loop().create_future()
        try:
            if self.losses == since:
                return await unless(self._next_loss, work)
            work.close()
            raise self.loss()
        except ChannelLost as lost:
            raise await self._process.death_or(lost, patience=_MOMENT) from None

    def loss(self) -> ChannelLost:
        return ChannelLost(f"{self._name}: {self._loss}")

    async def send(self, data: bytes) -> None:
        _, writer = await self._connected()
        writer.write(data)
        with contextlib.suppress(ConnectionError):  # the end of QEMU or of the line, which a race and a read tell
            await writer.drain()

    async def line(self) -> bytes:
        """The next line, with its end."""
        reader, _ = await self._connected()
        try:
            return await self._some(reader.readline())
        except ValueError:  # asyncio's, for what is longer than its limit
            raise ChannelError(f"{self._name}: the guest sends a line without an end on the channel") from None

    async def piece(self) -> bytes:
        """What comes next, as it comes."""
        reader, _ = await self._connected()
        return await self._some(reader.read(1 << 18))

    async def _some(self, read: Awaitable[bytes]) -> bytes:
        with contextlib.suppress(ConnectionError):
            if data := await read:
                return data
        raise await self._process.death_or(self.loss(), patience=self._patience)

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with self._connecting:
            if self._streams is None:
                self._streams = await asyncio.open_connection(sock=self._line, limit=_LONGEST_LINE)
        return self._streams

    async def close(self) -> None:
        if self._streams is None:
            self._line.close()
            return
        _, writer = self._streams
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
