"""Owns the reading of an image by an NBD server, of which nothing is asked but to read. For the loop."""

import asyncio
import contextlib
import itertools
import os
import struct

from pytest_readonly_vm.config.network_image import NetworkImage
from pytest_readonly_vm.printable import line
from pytest_readonly_vm.sources.network import nbd
from pytest_readonly_vm.sources.network.server import Changed, Refused, Told, Unanswered

_REFUSALS = {
    nbd.UNKNOWN: "is no export of its server",
    nbd.TLS_REQUIRED: "is given by TLS only; write nbds://",
    nbd.POLICY: "is not given to everybody by its server",
    nbd.SHUTDOWN: "is on a server that is about to end",
}
_CUT = "ended the connection"


class NbdServer:
    """A server and its export, over one connection that is made anew when it breaks."""

    def __init__(self, image: NetworkImage) -> None:
        self._image = image
        self._told: Told | None = None
        self._connections = 0
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    @property
    def connections(self) -> int:
        """See `ImageServer`."""
        return self._connections

    async def look(self) -> Told:
        """See `ImageServer`."""
        found = (await self._connected()).told
        self._told = self._told or found
        return found

    async def read(self, offset: int, length: int) -> bytes:
        """See `ImageServer`."""
        connection = await self._connected()
        if self._told is not None and (difference := self._told.difference(connection.told)):
            raise Changed(difference)
        return await connection.read(offset, length)

    async def _connected(self) -> "_Connection":
        async with self._connecting:
            if self._connection is None or self._connection.is_over:
                self._connection = await _connect(self._image)
                self._connections += 1
            return self._connection

    def hang_up(self) -> None:
        """See `ImageServer`."""
        if self._connection is not None:
            self._connection.close(_CUT)
            self._connection = None

    def close(self) -> None:
        """See `ImageServer`."""
        self.hang_up()


async def _connect(image: NetworkImage) -> "_Connection":
    writer = None
    try:
        if image.socket is not None:
            reader, writer = await asyncio.open_unix_connection(image.socket)
        else:
            reader, writer = await asyncio.open_connection(*image.host)
        told = await _agreed(reader, writer, image)
        return _Connection(reader, writer, told)
    except BaseException as error:
        if writer is not None:
            writer.transport.abort()
        if isinstance(error, asyncio.IncompleteReadError):
            raise Unanswered(f"{_CUT} before it had said what it has") from None
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):
            raise Unanswered(f"cannot be connected to: {_reason(error)}") from None
        raise


def _reason(error: OSError) -> str:
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason}"
    return error.strerror or (os.strerror(error.errno) if error.errno else type(error).__name__)


async def _agreed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, image: NetworkImage) -> Told:
    """Go through the handshake; what the server says of the export."""
    begins = await reader.readexactly(18)
    magic, second, flags = begins[:8], begins[8:16], int.from_bytes(begins[16:])
    if magic != nbd.MAGIC or second != nbd.OPTION_MAGIC or not flags & nbd.FIXED_NEWSTYLE:
        raise Refused("is on a server that does not speak NBD as it is spoken since 2014")
    without = flags & nbd.NO_ZEROES
    writer.write((nbd.FIXED_NEWSTYLE | without).to_bytes(4))
    if image.is_encrypted:
        kind, _ = await _asked(reader, writer, nbd.STARTTLS, b"")
        if kind != nbd.ACK:
            raise Refused("is on a server that does not do TLS")
        await _encrypt(writer, image)
    name = image.export.encode(errors="surrogateescape")
    told = None
    wanted = struct.pack(f">I{len(name)}sH", len(name), name, 0)
    writer.write(nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.GO, len(wanted)) + wanted)
    while True:
        kind, data = await _answer(reader, nbd.GO)
        if kind == nbd.ACK and told is not None:
            return told
        if kind == nbd.OF_INFO:
            if len(data) == 12 and int.from_bytes(data[:2]) == nbd.OF_EXPORT:
                told = _told(*nbd.EXPORT.unpack(data[2:]))
        elif kind == nbd.UNSUPPORTED:
            break
        else:
            said = line(data[:200].decode(errors="replace")) if kind >> 31 else ""
            why = _REFUSALS.get(kind, f"is refused by its server ({kind & 0x7FFFFFFF})")
            raise Refused(f"{why}{f': {said}' if said else ''}")
    writer.write(nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.EXPORT_NAME, len(name)) + name)
    try:
        told = _told(*nbd.EXPORT.unpack(await reader.readexactly(nbd.EXPORT.size)))
    except asyncio.IncompleteReadError:
        raise Refused(_REFUSALS[nbd.UNKNOWN]) from None
    await reader.readexactly(0 if without else 124)
    return told


def _told(size: int, flags: int) -> Told:
    return Told(size, is_writable=not flags & nbd.READ_ONLY)


async def _asked(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, option: int, data: bytes
) -> tuple[int, bytes]:
    writer.write(nbd.OPTION.pack(nbd.OPTION_MAGIC, option, len(data)) + data)
    return await _answer(reader, option)


async def _answer(reader: asyncio.StreamReader, option: int) -> tuple[int, bytes]:
    magic, of, kind, length = nbd.OPTION_REPLY.unpack(await reader.readexactly(nbd.OPTION_REPLY.size))
    if magic != nbd.REPLY_MAGIC or of != option or length > nbd.LONGEST_OPTION:
        raise Refused("is on a server that does not answer as NBD does")
    return kind, await reader.readexactly(length)


async def _encrypt(writer: asyncio.StreamWriter, image: NetworkImage) -> None:
    import ssl  # which takes a while, and few need

    context = await asyncio.to_thread(ssl.create_default_context)
    await writer.start_tls(context, server_hostname=image.host[0])


class _Connection:
    """A connection to an export. Several may read at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, told: Told) -> None:
        self.told = told
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[int, asyncio.Future[bytes]]] = {}
        self._why = ""
        self._hearing = asyncio.ensure_future(self._hear())

    @property
    def is_over(self) -> bool:
        return bool(self._why)

    async def read(self, offset: int, length: int) -> bytes:
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = length, answer
        self._writer.write(nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.READ, number, offset, length))
        with contextlib.suppress(OSError):  # which the answer has as well
            await self._writer.drain()
        return await answer  # given up, it stays known, as its bytes may come yet

    async def _hear(self) -> None:
        try:
            while True:
                magic, error, number = nbd.REPLY.unpack(await self._reader.readexactly(nbd.REPLY.size))
                if magic != nbd.SIMPLE_REPLY_MAGIC or number not in self._asked:
                    self.close("does not answer as NBD does")
                    return
                length, answer = self._asked.pop(number)
                data = b"" if error else await self._reader.readexactly(length)
                if answer.done():
                    continue
                if error:
                    answer.set_exception(Unanswered(f"refuses to read: {_errno(error)}"))
                else:
                    answer.set_result(data)
        except (OSError, asyncio.IncompleteReadError):
            self.close(_CUT)

    def close(self, why: str) -> None:
        """Everybody who waits hears why."""
        self._why = self._why or why
        self._hearing.cancel()
        self._writer.transport.abort()
        for _, answer in self._asked.values():
            if not answer.done():
                answer.set_exception(Unanswered(why))
                answer.exception()  # which is of no interest where nobody waits any more
        self._asked.clear()


def _errno(number: int) -> str:
    return os.strerror(number) if 0 < number < 200 else f"error {number}"
