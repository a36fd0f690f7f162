"""Owns a byte stream to a program in the guest, as a socket of ours leads to it, and the news when it leads nowhere."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable
from typing import TypeVar

from pytest_readonly_vm.errors import ChannelError, ChannelLost
from pytest_readonly_vm.host.process import Process

T = TypeVar("T")

_LONGEST_LINE = 128 << 20  # bytes


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
        self._lost = asyncio.Event()
        self._connecting = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.losses = 0
        """How often the guest's end went away."""

    def lose(self) -> None:
        """The guest's end went away just now."""
        self.losses += 1
        self._lost.set()
        self._lost = asyncio.Event()

    async def race(self, work: Awaitable[T], *, since: int) -> T:
        """Await something that needs the guest's end of the stream.

        :param since: what `losses` was when the guest answered there.
        :raises ChannelLost: it went away since then: the guest rebooted, or the program that had it ended.
        :raises GuestDied: QEMU ended first.
        """
        if self.losses != since:
            asyncio.ensure_future(work).cancel()
            raise await self._process.death_or(self.loss(), patience=0.05)
        task = asyncio.ensure_future(work)
        loss = asyncio.ensure_future(self._lost.wait())
        try:
            # Both as one, so that the end of QEMU, which ends its streams as well, is what is told.
            await self._process.race(asyncio.wait((task, loss), return_when=asyncio.FIRST_COMPLETED))
            if not task.done():
                raise await self._process.death_or(self.loss(), patience=0.05)
            return task.result()
        finally:
            for future in (task, loss):
                future.cancel()
            await asyncio.gather(task, loss, return_exceptions=True)

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
