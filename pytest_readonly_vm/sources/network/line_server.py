"""Owns the other side of NBD: an image as one process here gets it, to be read and nothing else. For the loop.

The process may be in the hands of its guest. It can ask for less than it has been given already: bytes of one image.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

from pytest_readonly_vm.sources.network import nbd

_AT_ONCE = 16
"""Reads that are under way for one process."""
_LONGEST_READ = 4 << 20
"""Bytes: so a process that is up to no good has us hold 64 MiB for it."""
_LONGEST_OPTION = 4096
_FLAGS = nbd.HAS_FLAGS | nbd.READ_ONLY | nbd.MULTI_CONN

Read = Callable[[int, int], Awaitable[bytes]]


async def serve(line: socket.socket, size: int, read: Read) -> None:
    """Give a file of so many bytes to whoever is at the other end of a socket, until he leaves; the socket is closed.

    What `read` raises is an I/O error there.
    """
    reader, writer = await asyncio.open_connection(sock=line)
    try:
        if await _agree(reader, writer, size):
            await _Reads(writer, size, read).answer_all(reader)
    except (OSError, asyncio.IncompleteReadError):
        pass  # he has left
    finally:
        writer.transport.abort()


async def _agree(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> bool:
    """Go through the handshake; whether he wants to read then."""
    writer.write(nbd.MAGIC + nbd.OPTION_MAGIC + (nbd.FIXED_NEWSTYLE | nbd.NO_ZEROES).to_bytes(2))
    without = int.from_bytes(await reader.readexactly(4)) & nbd.NO_ZEROES
    export = nbd.EXPORT.pack(size, _FLAGS)
    while True:
        magic, option, length = nbd.OPTION.unpack(await reader.readexactly(nbd.OPTION.size))
        if magic != nbd.OPTION_MAGIC or length > _LONGEST_OPTION:
            return False
        await reader.readexactly(length)

        def reply(kind: int, data: bytes = b"", option: int = option) -> None:
            writer.write(nbd.OPTION_REPLY.pack(nbd.REPLY_MAGIC, option, kind, len(data)) + data)

        if option == nbd.EXPORT_NAME:
            writer.write(export + bytes(0 if without else 124))
            return True
        if option in (nbd.GO, nbd.INFO):
            reply(nbd.OF_INFO, nbd.OF_EXPORT.to_bytes(2) + export)
            reply(nbd.OF_INFO, nbd.BLOCKS.pack(nbd.OF_BLOCKS, 1, 4096, _LONGEST_READ))
            reply(nbd.ACK)
            if option == nbd.GO:
                return True
        elif option == nbd.ABORT:
            reply(nbd.ACK)
            return False
        else:
            reply(nbd.UNSUPPORTED)
        await writer.drain()


class _Reads:
    """What one process reads."""

    def __init__(self, writer: asyncio.StreamWriter, size: int, read: Read) -> None:
        self._writer = writer
        self._size = size
        self._read = read
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer_all(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                request = nbd.REQUEST.unpack(await reader.readexactly(nbd.REQUEST.size))
                magic, _, kind, number, offset, length = request
                if magic != nbd.REQUEST_MAGIC or kind == nbd.DISCONNECT:
                    return
                if kind != nbd.READ:
                    if kind == nbd.WRITE:
                        return  # after what it was told it cannot be meant
                    self._reply(number, nbd.EPERM)
                elif length > _LONGEST_READ or offset + length > self._size:
                    self._reply(number, nbd.EINVAL)
                else:
                    await self._room.acquire()
                    task = asyncio.ensure_future(self._answer(number, offset, length))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        finally:
            for task in self._tasks:
                task.cancel()

    async def _answer(self, number: int, offset: int, length: int) -> None:
        try:
            data = await self._read(offset, length)
        except Exception:  # whatever it is, it has been told to who reads, and here there is but one word for it
            self._reply(number, nbd.EIO)
        else:
            self._reply(number, 0, data)
            with contextlib.suppress(OSError):
                await self._writer.drain()
        finally:
            self._room.release()

    def _reply(self, number: int, error: int, data: bytes = b"") -> None:
        self._writer.write(nbd.REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, error, number) + data)
