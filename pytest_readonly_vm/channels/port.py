"""Owns a virtio-serial port: a byte stream to whatever in the guest has it open, and the news when nobody has."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable
from typing import TypeVar

from pytest_readonly_vm.channels.qmp import Qmp, QmpEvent
from pytest_readonly_vm.errors import ChannelError, ChannelLost
from pytest_readonly_vm.host.process import Process

T = TypeVar("T")

_LONGEST_LINE = 128 << 20  # bytes


class Port:
    """The host's end of one port. Everything is for the loop.

    What is sent while nobody in the guest has the port open waits in QEMU's socket until somebody has.
    """

    def __init__(self, process: Process, qmp: Qmp, line: socket.socket, *, device: str, name: str) -> None:
        """`device` is QEMU's id of the port, `name` the machine's for messages."""
        self._process = process
        self._line = line
        self._device = device
        self._name = name
        self._lost = asyncio.Event()
        self._connecting = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._is_open = False
        self.was_open = False
        """Whether anybody in the guest has had it open."""
        self.losses = 0
        """How often it was closed in the guest."""
        qmp.listeners.append(self._hear)

    def _hear(self, event: QmpEvent) -> None:
        if event.name == "VSERPORT_CHANGE" and event.data.get("id") == self._device:
            is_open = bool(event.data.get("open"))
            # QEMU tells at most one change per second, the last: an opening of what was open was a closing as well.
            if self._is_open or not is_open:
                self.losses += 1
                self._lost.set()
                self._lost = asyncio.Event()
            self._is_open = is_open
            self.was_open = True

    async def race(self, work: Awaitable[T], *, since: int) -> T:
        """Await something that needs the guest to have the port open.

        :param since: what `losses` was when the guest answered there.
        :raises ChannelLost: the guest has closed it since then: it rebooted, or the program that had it ended.
        :raises GuestDied: QEMU ended first.
        """
        if self.losses != since:
            asyncio.ensure_future(work).cancel()
            raise await self._process.death_or(self.loss(), patience=0.05)
        task = asyncio.ensure_future(work)
        loss = asyncio.ensure_future(self._lost.wait())
        try:
            # Both as one, so that the end of QEMU, which closes its ports as well, is what is told.
            await self._process.race(asyncio.wait((task, loss), return_when=asyncio.FIRST_COMPLETED))
            if not task.done():
                raise await self._process.death_or(self.loss(), patience=0.05)
            return task.result()
        finally:
            for future in (task, loss):
                future.cancel()
            await asyncio.gather(task, loss, return_exceptions=True)

    def loss(self) -> ChannelLost:
        return ChannelLost(f"{self._name}: the guest closed its end of the channel (it rebooted, or the program ended)")

    async def send(self, data: bytes) -> None:
        _, writer = await self._connected()
        writer.write(data)
        with contextlib.suppress(ConnectionError):  # the end of QEMU, which a race tells
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
        raise await self._process.death_or(self.loss())

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
