"""Owns what is read of one image on the network, for all machines of a run: each block once, proved, within a time.

All that is said of a server's silence is said here: for how long it is asked again, when it is lost, who hears of it.
"""

import asyncio
import contextlib
import hashlib
import itertools
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.host.loop import LoopThread, cancel, quiet
from pytest_readonly_vm.image.network_file import Line, Trouble
from pytest_readonly_vm.sources.network.line_server import serve
from pytest_readonly_vm.sources.network.server import Changed, ImageServer, Refused, Told, Unanswered

T = TypeVar("T")

BLOCK = 1 << 17
"""Bytes that are asked for at once."""
_KEPT = 512
"""Blocks that are kept in memory: 64 MiB."""
_SAMPLE = 32
"""Blocks that are compared with what they were when a server was connected to anew: 4 MiB."""
_PAUSE = 0.2
"""Seconds between one question and the same again."""
_LAST_PATIENCE = 2.0
"""Seconds for which one that was lost is asked once more, so that not each test waits for it as long as the first."""


class Lost(Exception):
    """The file has met its trouble."""


class BlockReader:
    """Reads a file by its server. Any thread but the loop's may ask, where nothing else is said."""

    def __init__(self, server: ImageServer, loop: LoopThread, shown: str, *, patience: float) -> None:
        """
        :param shown: what the file is, for messages.
        :param patience: seconds that the server has for an answer, with all that it takes to ask it anew.
        """
        self._server = server
        self._loop = loop
        self._shown = shown
        self._patience = patience
        self._told: Told | None = None
        self._trouble: Trouble | None = None
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._digests: dict[int, bytes] = {}
        self._on_their_way: dict[int, asyncio.Task[bytes]] = {}
        self._since: dict[object, float] = {}
        self._hearers: dict[object, Callable[[Trouble], None]] = {}
        self._lines: dict[object, asyncio.Task[None]] = {}
        self._numbers = itertools.count()
        self._known_connections = 0

    @property
    def trouble(self) -> Trouble | None:
        """See `Reader`."""
        return self._trouble

    @property
    def waiting(self) -> float:
        """See `Reader`."""
        since = list(self._since.values())
        return time.monotonic() - min(since) if since else 0.0

    def open(self) -> Told:
        """Ask the server for the first time.

        :raises Refused, Unanswered: there is nothing to be read.
        """
        self._told = self._loop.run(self._within(self._patience, self._server.look))
        return self._told

    def read(self, offset: int, length: int) -> bytes:
        """See `Reader`."""
        try:
            return self._loop.run(self.part(offset, length))
        except Lost:
            raise self._error() from None

    def _error(self) -> VmError:
        assert self._trouble is not None
        return self._trouble.error(self._shown)

    async def part(self, offset: int, length: int) -> bytes:
        """Bytes of the file, as far as it goes; on the loop.

        :raises Lost: there is trouble.
        """
        assert self._told is not None
        end = min(offset + length, self._told.size)
        if offset >= end:
            return b""
        first = offset // BLOCK
        last = (end - 1) // BLOCK
        if first == last:  # as most are, and then nothing of the loop's is needed for what is in memory
            return (await self._block(first))[offset - first * BLOCK : end - first * BLOCK]
        blocks = await asyncio.gather(*map(self._block, range(first, last + 1)))
        return b"".join(blocks)[offset - first * BLOCK :][: end - offset]

    async def _block(self, number: int) -> bytes:
        if (found := self._kept.get(number)) is not None:
            self._kept.move_to_end(number)
            return found
        if number not in self._on_their_way:
            task = quiet(asyncio.ensure_future(self._fetched(number)))
            self._on_their_way[number] = task
            task.add_done_callback(lambda _: self._on_their_way.pop(number))
        # Others may wait for the same, whoever gives up.
        return await asyncio.shield(self._on_their_way[number])

    async def _fetched(self, number: int) -> bytes:
        """One block from the server, which is the block that it was if it was read before.

        :raises Lost: there is trouble.
        """
        if self._trouble is not None:
            raise Lost
        try:
            data = await self._within(self._patience, lambda: self._proved(number))
        except Changed as changed:
            self._tell(Trouble(str(changed), is_change=True))
            raise Lost from None
        except (Refused, Unanswered) as error:
            self._tell(Trouble(str(error), is_change=False))
            raise Lost from None
        self._kept[number] = data
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return data

    async def _proved(self, number: int) -> bytes:
        """One block, asked for once.

        :raises Changed: it is not what it was, or others are not since it was connected to anew.
        """
        if self._server.connections != self._known_connections:
            await self._server.look()
            connections, numbers = self._server.connections, list(self._digests)
            for known in numbers[:: max(len(numbers) // _SAMPLE, 1)]:
                self._prove(known, await self._server.read(*self._place(known)))
            self._known_connections = connections
        data = await self._server.read(*self._place(number))
        self._prove(number, data)
        return data

    def _place(self, number: int) -> tuple[int, int]:
        assert self._told is not None
        return number * BLOCK, min(BLOCK, self._told.size - number * BLOCK)

    def _prove(self, number: int, data: bytes) -> None:
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if self._digests.setdefault(number, digest) != digest:
            raise Changed(f"was changed: it has other bytes at {number * BLOCK} than it had")

    async def _within(self, patience: float, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask, and ask anew what may pass, for so many seconds.

        :raises Changed, Refused: as it is told.
        :raises Unanswered: it did not pass.
        """
        clock = asyncio.get_running_loop().time
        deadline, me, reason = clock() + patience, object(), ""
        self._since[me] = time.monotonic()
        try:
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        return await ask()
                except TimeoutError:
                    self._server.hang_up()
                    if reason:
                        raise Unanswered(f"{reason} (tried for {patience:g} s)") from None
                    raise Unanswered(f"has had no answer from its server for {patience:g} s") from None
                except Unanswered as error:
                    reason = str(error)
                    if self._told is None or clock() + _PAUSE >= deadline:
                        # Nobody has a guest yet that would be better off with some patience.
                        after = "" if self._told is None else f" (tried for {patience:g} s)"
                        raise Unanswered(f"{reason}{after}") from None
                await asyncio.sleep(_PAUSE)
        finally:
            del self._since[me]

    def _tell(self, trouble: Trouble) -> None:
        if self._trouble is None or not self._trouble.is_change:
            self._trouble = trouble
        for hear in list(self._hearers.values()):
            hear(self._trouble)
        self._hearers.clear()

    def compare(self) -> Trouble | None:
        """See `Reader`."""
        if self._trouble is not None and self._trouble.is_change:
            return self._trouble
        return self._loop.run(self._compared())

    async def _compared(self) -> Trouble | None:
        assert self._told is not None
        patience = self._patience if self._trouble is None else min(_LAST_PATIENCE, self._patience)
        try:
            found = await self._within(patience, self._server.look)
            if difference := self._told.difference(found):
                raise Changed(difference)
            if not found.etag and self._digests:  # nothing else tells of a change
                numbers = list(self._digests)
                number = numbers[next(self._numbers) % len(numbers)]
                await self._within(patience, lambda: self._proved(number))
        except Changed as changed:
            self._tell(Trouble(str(changed), is_change=True))
            return self._trouble
        except (Refused, Unanswered) as error:
            self._tell(Trouble(str(error), is_change=False))
            return self._trouble
        self._trouble = None
        return None

    def lend(self, on_trouble: Callable[[Trouble], None]) -> Line:
        """See `Reader`; the loop may ask as well."""
        ours, theirs = socket.socketpair()
        me = object()

        def begin() -> None:
            if self._trouble is not None:
                on_trouble(self._trouble)
            self._hearers[me] = on_trouble
            self._lines[me] = quiet(asyncio.ensure_future(serving()))

        async def serving() -> None:
            try:
                assert self._told is not None
                await serve(ours, self._told.size, self.part)
            finally:
                forget()

        def forget() -> None:
            self._hearers.pop(me, None)
            if (task := self._lines.pop(me, None)) is not None and not task.done():
                task.cancel()

        def end() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it all lines
                self._loop.loop.call_soon_threadsafe(forget)

        self._loop.loop.call_soon_threadsafe(begin)
        return Line(theirs, end)

    def close(self) -> None:
        """See `Reader`."""

        async def close() -> None:
            await cancel(*self._lines.values(), *self._on_their_way.values())
            self._server.close()

        self._loop.run(close())
