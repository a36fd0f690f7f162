"""Owns the guest's serial port: every byte to a log on disk, the latest text in memory, patterns to wait for."""

import asyncio
import codecs
import contextlib
import io
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_readonly_vm.channels.history import History
from pytest_readonly_vm.channels.last_words import last_words
from pytest_readonly_vm.channels.liveness import Liveness
from pytest_readonly_vm.channels.pattern import compiled
from pytest_readonly_vm.errors import ConnectionLost, GuestPanicked, VmError, WaitTimeout
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.process import Process
from pytest_readonly_vm.printable import tail

_KEPT = 1 << 20  # characters
_LINES_SHOWN = 20

_LAST = "Last console lines:"
_PANICKED = "Its kernel said:"
HEADS = (_LAST, _PANICKED)
"""How the notes of errors begin that have the console's words."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a guest has sent so far, and the part of it in which no pattern has been found yet."""

    data: bytes
    unread: str


NOTHING = Transcript(b"", "")


class Console:
    r"""The serial console of one machine, as text: UTF-8, other bytes become U+FFFD, and every line ends with ``\n``.

    It is read from the first byte on, whether anybody looks or not: a serial port that nobody reads stops the guest.
    """

    def __init__(
        self,
        loop: LoopThread,
        process: Process,
        liveness: Liveness,
        port: socket.socket,
        log: Path,
        name: str,
        transcript: Transcript = NOTHING,
        history: History | None = None,
    ) -> None:
        """`transcript` is what the guest sent before it came to this process."""
        self._loop = loop
        self._process = process
        self._liveness = liveness
        self._history = history or History()
        self.listeners: list[Callable[[str], None]] = []
        """Functions, called on the loop with every piece of text that comes."""
        self._port = port
        self._name = name
        utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decode = io.IncrementalNewlineDecoder(utf8, translate=True).decode
        recent = transcript.data.decode(errors="replace").replace("\r\n", "\n")
        self._recent = _Latest(recent)
        self._unread = _Latest(transcript.unread)
        self._position = self._begin = len(recent)
        self._news = asyncio.Event()
        self._sending = asyncio.Lock()
        self.log_path = log
        """The whole log, as the guest sent it, for as long as the machine lives."""
        self.loss = ""
        """Why the log, and with it `text`, does not have all that the guest has sent; empty if it has."""
        self._log = log.open("wb", buffering=0)
        self._write(transcript.data)
        port.setblocking(False)
        process.drains.append(self._read_rest)
        process.witnesses.append(self._testify)
        loop.loop.call_soon_threadsafe(loop.loop.add_reader, port.fileno(), self._read)

    # On the loop's thread.

    def _read(self) -> bool:
        """Take what there is, at most 64 KiB; whether there was anything."""
        try:
            data = self._port.recv(1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.loop.remove_reader(self._port.fileno())
            return False
        self._write(data)
        text = self._decode(data)
        self._recent.add(text)
        self._unread.add(text)
        self._position += len(text)
        for listener in self.listeners:
            listener(text)
        self._news.set()
        self._news = asyncio.Event()
        return True

    def _write(self, data: bytes) -> None:
        """To the log, as long as that has all from the beginning. What waits and watches gets it in any case."""
        try:
            while data and not self.loss:
                data = data[self._log.write(data) :]
        except OSError as error:
            self.loss = f"the log of the console ends early: {error.strerror}: {self.log_path}"
            self._history.note("state", self.loss)

    def catch_up(self) -> None:
        """Take in what the guest has sent by now; on the loop."""
        while self._port.fileno() != -1 and self._read():
            pass

    async def _read_rest(self) -> None:
        self.catch_up()

    def _testify(self, error: VmError) -> str:
        """What it says of an error: if a kernel has panicked, where, and otherwise what came last."""
        since = self.since(self._begin)
        if isinstance(error, GuestPanicked) and (words := last_words(since, error.panic)):
            return self._noted(_PANICKED, words)
        return self._noted(_LAST, tail(since, _LINES_SHOWN))

    def _noted(self, head: str, lines: list[str]) -> str:
        """A note with lines of the console's."""
        if lines:
            lines = [head, *lines]
        else:
            lines = ["The console has said nothing new." if self._position else "The console stayed silent."]
        return "\n".join([*lines, f"({self.loss})"] if self.loss else lines)

    async def found(self, pattern: re.Pattern[str], timeout: float) -> re.Match[str]:
        """As `expect`, on the loop."""
        return await self._wait(pattern, timeout, self._take)

    async def seen(self, pattern: re.Pattern[str], timeout: float) -> re.Match[str]:
        """As `found`, in all that has come, and without taking it away from whoever looks for it next."""
        return await self._wait(pattern, timeout, lambda pattern: pattern.search(self._recent.text()))

    async def _wait(
        self,
        pattern: re.Pattern[str],
        timeout: float,
        look: Callable[[re.Pattern[str]], re.Match[str] | None],
    ) -> re.Match[str]:
        try:
            async with asyncio.timeout(timeout):
                # Taken here and not in the race, whose result is lost when the deadline comes in the same moment.
                while not (match := look(pattern)):
                    try:
                        self._liveness.check()
                        await self._liveness.news(self._news)
                    except VmError:
                        if match := look(pattern):  # which may be of what has stopped the guest
                            return match
                        raise
                return match
        except TimeoutError:
            error = WaitTimeout(f"{self._name}: the console did not show {pattern.pattern!r} within {timeout:g} s")
            error.add_note(self._noted(_LAST, tail(self._recent.text(), _LINES_SHOWN)))
            raise error from None

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        unread = self._unread.settled()
        if match := pattern.search(unread):
            self._unread = _Latest(unread[match.end() :])
        return match

    def transcript(self) -> Transcript:
        """All of it, for a console that goes on from here; of a longer log the last MiB."""
        if self.loss:
            return Transcript(self._recent.text().encode()[-_KEPT:], self._unread.text())
        with self.log_path.open("rb") as log:
            log.seek(max(log.seek(0, os.SEEK_END) - _KEPT, 0))
            return Transcript(log.read(), self._unread.text())

    def next_news(self) -> asyncio.Event:
        """Set when the guest sends something more; on the loop."""
        return self._news

    @property
    def position(self) -> int:
        """How many characters have come; on the loop."""
        return self._position

    def since(self, position: int) -> str:
        """What has come since `position` was that, as the guest sent it; of much, the latest."""
        length = self._position - position
        return self._recent.end(length)[-length:] if length > 0 else ""

    async def typed(self, data: bytes, timeout: float = 30.0) -> None:
        """As `send`, on the loop."""
        try:
            async with asyncio.timeout(timeout), self._sending:
                await self._process.race(self._loop.loop.sock_sendall(self._port, data))
        except TimeoutError:
            raise WaitTimeout(f"{self._name}: the guest did not take what was sent to its console") from None
        except OSError as error:
            lost = ConnectionLost(f"{self._name}: the connection to the console broke: {error}")
            raise await self._process.death_or(lost) from None

    def close(self) -> None:
        """Let go of socket and log; on the loop. A second call does nothing."""
        if self._port.fileno() == -1:
            return
        self._loop.loop.remove_reader(self._port.fileno())
        self._port.close()
        self._log.close()

    # On any thread.

    @property
    def text(self) -> str:
        """All that the guest has sent since it was started; the last 2**20 characters once the machine has ended, or if
        the host's disk had no room for the log (see `loss`).
        """
        with contextlib.suppress(FileNotFoundError):
            if not self.loss:
                return self.log_path.read_text(encoding="utf-8", errors="replace")
        return self._recent.text()

    def tail(self, lines: int = _LINES_SHOWN) -> str:
        """The last lines, blank ones at the end apart, in bounds and without what a terminal obeys: fit to be shown."""
        return "\n".join(tail(self._recent.text(), lines))

    def begin_test(self) -> None:
        """What has come so far was there before the test that gets the machine now."""
        self._begin = self._position

    def tail_of_test(self, lines: int) -> str:
        """As `tail`, of what has come since the test got the machine, or QEMU was started after that."""
        return "\n".join(tail(self.since(self._begin).lstrip("\r\n"), lines))

    def expect(self, pattern: str | re.Pattern[str], timeout: float = 30.0) -> re.Match[str]:
        """Wait until the console shows a pattern, in what came after the previous `expect` found its own.

        At most the last 2**20 characters are looked at.

        :param pattern: a regular expression; a text is compiled with `re.MULTILINE`, so ``$`` means a line's end.
        :param timeout: seconds to wait.
        :raises WaitTimeout: it did not show; a note has the last lines.
        :raises GuestDied, GuestPaused: the guest was stopped while waiting.
        """
        __tracebackhide__ = True
        wanted = compiled(pattern, re.MULTILINE)
        with self._history.noting("wait", f"console: {wanted.pattern}"):
            return self._loop.run(self.found(wanted, timeout))

    def send(self, text: str | bytes, timeout: float = 30.0) -> None:
        r"""Type something; a line needs its ``\n``.

        :param timeout: seconds that the guest may take to accept it.
        :raises WaitTimeout: the guest did not take it all.
        :raises GuestDied: QEMU ended.
        :raises ConnectionLost: it lives, and somebody has taken the serial port away from it.
        """
        self._loop.run(self.typed(text.encode() if isinstance(text, str) else text, timeout))


class _Latest:
    """The last 2**20 characters of a text that grows on the loop; adding to it costs the same however long it is."""

    def __init__(self, text: str) -> None:
        self._pieces = [text[-_KEPT:]]
        self._length = len(self._pieces[0])

    def add(self, text: str) -> None:
        self._pieces.append(text)
        self._length += len(text)
        if self._length > 2 * _KEPT:
            self.settled()

    def settled(self) -> str:
        """As `text`, in one piece from now on, for who looks at it again and again; on the loop."""
        text = self.text()
        self._pieces, self._length = [text], len(text)
        return text

    def text(self) -> str:
        """On any thread."""
        return "".join(self._pieces)[-_KEPT:]

    def end(self, length: int) -> str:
        """At least its last so many characters, if it has them."""
        pieces: list[str] = []
        for piece in reversed(self._pieces):
            pieces.append(piece)
            if (length := length - len(piece)) <= 0:
                break
        return "".join(reversed(pieces))
