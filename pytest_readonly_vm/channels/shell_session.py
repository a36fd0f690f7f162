"""Owns the conversation with a root shell in the guest whose input and output are a stream. Any POSIX ``sh`` will do.

We type functions into that shell, and then calls of them. Commands run as `jobs`. What comes back are `frames`.
"""

import asyncio
import base64
import contextlib
import errno
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from pytest_readonly_vm.channels import helper, jobs
from pytest_readonly_vm.channels.channel import Sink, content_of, parts
from pytest_readonly_vm.channels.frames import END, FUNCTIONS, HEADER, Frame
from pytest_readonly_vm.channels.jobs import JobFiles, absolute, os_error, quoted, script_line
from pytest_readonly_vm.channels.stream import Stream
from pytest_readonly_vm.errors import ChannelError, ChannelLost, GuestDied
from pytest_readonly_vm.host.loop import cancel, quiet

_WRITTEN_AT_ONCE = 3 << 18  # bytes, a multiple of three: base64 without padding
_PATIENCE_WITH_THE_DYING = 10.0
_LONGEST_LINE = 256  # bytes of a line that are looked at
_LONGEST_WORDS = 1 << 12  # bytes of what else is printed that are kept
_TELLING = helper.Telling(r"\n$1 <\n\n$1 -\n\n$1 %d >\n", take="read -r _rv_x <&9", give="&9")  # a frame

WriteFile = Callable[[bytes, AsyncIterator[bytes]], Awaitable[None]]


class ShellSession:
    """The host's end of it: what a `Channel` can do, but for its name and why it does not answer.

    Attributes: `stream`, which is closed with it; `has_argument`, whether the shell was started with one.
    """

    def __init__(self, stream: Stream, name: str, *, write_large: WriteFile | None = None) -> None:
        """`write_large` is a better way to write a large file than to have the shell read it, if there is one."""
        self.stream = stream
        self._name = name
        self._write_large = write_large
        self.has_argument = False
        self._pid = ""
        self._odd = bytearray()
        self._frames: dict[bytes, Frame] = {}
        self._buffer = bytearray()
        self._reader: asyncio.Task[None] | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._files = JobFiles(name)
        self._typing = asyncio.Lock()
        self._is_ready = self._has_helper = False
        self._opening = -1  # the stream's losses when the shell was first typed to

    def is_open(self) -> bool:
        is_read = self._reader is not None and not self._reader.done()
        return self._is_ready and is_read and self._opening == self.stream.losses

    async def open(self) -> None:
        await self._stop_reading()
        self._is_ready = self._has_helper = False
        self._opening = self.stream.losses
        self._buffer.clear()
        self._odd.clear()
        self._reader = asyncio.ensure_future(self._read())
        answer = bytearray()
        nonce, frame = self._expect(answer.extend, bytes)
        start = (jobs.PLACE + jobs.FUNCTIONS + FUNCTIONS).replace("FOLDER", jobs.folder_name())
        words = f'{nonce} "$_rv_room" {nonce} {nonce} "$$${{1:+ 1}}"'
        hello = rf"printf '\n%s <\n%s\n%s -\n\n%s %s >\n' {words}" + "\n"
        await self._type(start.encode() + hello.encode())
        pid, *argument = await self._result(nonce, frame)
        if not answer:
            raise ChannelError(f"{self._name}: the guest's shell has no place to write in {', '.join(jobs.PLACES)}")
        self._files = JobFiles(self._name, answer.decode(errors="replace"), self._files.number)
        self._pid, self.has_argument = pid.decode(), bool(argument)
        self._is_ready = True

    async def last_words(self, patience: float) -> str:
        """What has come in place of an answer to `open`, and what still comes in so many seconds."""
        with contextlib.suppress(TimeoutError, ChannelError, GuestDied):
            async with asyncio.timeout(patience):
                while len(self._buffer) < _LONGEST_WORDS:
                    self._buffer += await self.stream.piece()
        return (self._odd + self._buffer).decode(errors="replace")

    async def part(self) -> Mapping[str, Any] | None:
        if not self.is_open():
            return None
        return {"room": self._files.room, "number": self._files.number, "has_helper": self._has_helper}

    async def resume(self, parted: Mapping[str, Any]) -> None:
        self._opening = self.stream.losses
        self._reader = asyncio.ensure_future(self._read())
        self._files = JobFiles(self._name, parted["room"], parted["number"])
        self._has_helper = parted["has_helper"]
        self._is_ready = True

    # What comes from the guest.

    def _expect(self, stdout: Sink, stderr: Sink) -> tuple[str, Frame]:
        if self._reader is None or self._reader.done():
            raise ChannelLost(f"{self._name}: the shell's answers are not read any more")
        nonce = secrets.token_hex(16)
        frame = self._frames[nonce.encode()] = Frame(stdout, stderr)
        return nonce, frame

    async def _read(self) -> None:
        """Read frames until the stream is lost; then nothing more comes for anybody, and all who wait are told why."""
        end: Exception = ChannelLost(f"{self._name}: the channel was closed or opened anew meanwhile")
        try:
            await self.stream.race(self._frames_forever(), since=self._opening)
        except Exception as error:
            end = error
        finally:
            for frame in self._frames.values():
                frame.fail(end)
            self._frames.clear()

    async def _frames_forever(self) -> None:
        while True:
            line = await self._line()
            header = HEADER.fullmatch(line)
            if header is None or (frame := self._frames.get(header[1])) is None:
                if not self._is_ready:
                    self._odd = (self._odd + line + b"\n")[-_LONGEST_WORDS:]
                continue
            await self._until(b"\n" + header[1] + b" -\n", partial(frame.take, frame.stdout))
            line = b"-"
            while line == b"-":
                await self._until(b"\n" + header[1] + b" ", partial(frame.take, frame.stderr))
                line = await self._line()
            if not (end := END.fullmatch(line)):
                raise self._files.nonsense(line)
            self._frames.pop(header[1], None)
            if not frame.words.done():
                frame.words.set_result(end[1].split())

    async def _line(self) -> bytes:
        line = bytearray()
        await self._until(b"\n", lambda piece: line.extend(piece[: _LONGEST_LINE - len(line)]))
        return bytes(line)

    async def _until(self, marker: bytes, sink: Sink) -> None:
        """Give the sink what comes before a marker, as it comes."""
        searched = 0
        while (at := self._buffer.find(marker, searched)) < 0:
            certain = len(self._buffer) - len(marker) + 1
            if certain > 0:
                sink(bytes(self._buffer[:certain]))
                del self._buffer[:certain]
            self._buffer += await self.stream.piece()
        if at:
            sink(bytes(self._buffer[:at]))
        del self._buffer[: at + len(marker)]

    async def _result(self, nonce: str, frame: Frame) -> list[bytes]:
        try:
            return await asyncio.shield(frame.words)
        finally:
            if frame.words.done():
                self._frames.pop(nonce.encode(), None)

    # What goes to it.

    async def _type(self, text: bytes) -> None:
        """Have the shell read a text; never half of it, whoever is cancelled."""
        await asyncio.shield(self._begin_to_type(text))

    def _begin_to_type(self, text: bytes) -> asyncio.Task[None]:
        return quiet(asyncio.ensure_future(self._send(text)))

    async def _send(self, text: bytes) -> None:
        async with self._typing:
            await self.stream.race(self.stream.send(text), since=self._opening)

    async def execute(self, script: bytes, *, input: bytes, stdout: Sink, stderr: Sink) -> int:
        files, base = self._files, self._files.new_base()
        source = f"{base}.in" if input else ""
        try:
            if input:
                await self._bring(source.encode(), input)
        except BaseException as end:
            files.ended(base, len(input))
            if not isinstance(end, OSError):
                raise
            raise files.refusal(len(input), end) from None
        nonce, frame = self._expect(stdout, stderr)
        words = *_words(nonce, base), quoted(source.encode()), quoted(script_line(script))
        try:
            await self._type(files.tidying() + b"_rv_run %s %s %s %s\n" % words)
            told = await self._result(nonce, frame)
        except asyncio.CancelledError:
            with contextlib.suppress(TimeoutError, ChannelError, GuestDied):
                async with asyncio.timeout(_PATIENCE_WITH_THE_DYING):
                    await self._type(f"_rv_kill {nonce} {base}\n".encode())
                    await self._result(nonce, frame)
                    files.ended(base, frame.size + len(input))
            raise
        try:
            return files.status(told)
        except ChannelLost:
            self._is_ready = False
            raise
        finally:
            files.ended(base, frame.size + len(input))
            if files.are_large:
                self._tidying = self._begin_to_type(files.tidying())

    async def _bring(self, name: bytes, data: bytes) -> None:
        """Put an input to where the files of jobs are."""
        if self._write_large and len(data) > _WRITTEN_AT_ONCE:
            with contextlib.suppress(FileNotFoundError):  # there is no /proc; or the place is lost, which is told below
                await self._write_large(f"/proc/{self._pid}/cwd/".encode() + name, content_of(data))
                return
        await self._write(name, content_of(data))

    async def keep_helper(self, program: bytes, *, idle: int, trial: bytes) -> None:
        # While a job sends what it has printed, which may take long, the helper cannot tell anything.
        if self._frames or (self._has_helper and await self._asked(trial) != helper.NONE):
            return
        await self._type(helper.keeping(program, idle=idle, telling=_TELLING))
        self._has_helper = await self._asked(trial) != helper.NONE

    async def ask_helper(self, message: bytes) -> bool:
        return self._has_helper and await self._asked(message) == 0

    async def _asked(self, message: bytes) -> int:
        nonce, frame = self._expect(bytes, bytes)
        try:
            await self._type(helper.asking(nonce, message))
            return self._files.status(await self._result(nonce, frame))
        finally:
            self._frames.pop(nonce.encode(), None)

    async def read_file(self, path: bytes, sink: Sink) -> None:
        await self._file("_rv_start _rv_read", absolute(path), sink)

    async def write_file(self, path: bytes, content: AsyncIterator[bytes]) -> None:
        await self._write(absolute(path), content)

    async def _write(self, path: bytes, content: AsyncIterator[bytes]) -> None:
        await self._file("_rv_empty", path, bytes)
        async for piece in content:
            for part in parts(piece, _WRITTEN_AT_ONCE):
                await self._file("_rv_write", path, bytes, base64.b64encode(part))

    async def _file(self, function: str, path: bytes, sink: Sink, document: bytes = b"") -> None:
        complaint = bytearray()
        nonce, frame = self._expect(sink, complaint.extend)
        base = self._files.new_base()
        call = b" ".join((*_words(function, nonce, base), quoted(path)))
        if document:
            # bash puts a long one into a file, which may not be possible elsewhere, and then does not call.
            end = secrets.token_hex(8).encode()
            or_else = b"_rv_tell %s '1 full' %s" % _words(nonce, base)
            call = b"_rv_folder=$TMPDIR TMPDIR=.\n%s <<'%s' || %s\n%s\n%s" % (call, end, or_else, document, end)
        await self._type(self._files.tidying() + call + b"\n")
        told = await self._result(nonce, frame)
        self._files.ended(base)
        if b"lost" in told:
            self._is_ready = False
            self._files.status(told)
        if b"full" in told:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))
        if b"unsent" in told or told == [b"127"]:
            complaint = complaint or bytearray(b"the guest has no `cat` that works")
        if told != [b"0"]:
            raise os_error(complaint.decode(errors="replace"), path)

    async def _stop_reading(self) -> None:
        if self._reader is not None:
            await cancel(self._reader)

    async def close(self) -> None:
        await self._stop_reading()
        await self.stream.close()


def _words(*texts: str) -> tuple[bytes, ...]:
    return tuple(text.encode() for text in texts)
