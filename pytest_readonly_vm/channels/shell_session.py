r"""Owns the conversation with a root shell in the guest whose input and output are a stream. Any POSIX ``sh`` will do.

We type functions into that shell, and then calls of them. Commands run as `jobs`. What comes back are frames::

    \nNONCE <\n  what it printed  \nNONCE -\n  what it printed to stderr  \nNONCE STATUS >\n

The nonce is a random number that only this frame has and that the command does not know, so nothing that is printed
can be taken for the end of a frame. Frames do not mix: whoever sends one takes the only byte out of a FIFO first, and
puts it back afterwards.
"""

import asyncio
import base64
import contextlib
import errno
import os
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pytest_readonly_vm.channels import jobs
from pytest_readonly_vm.channels.channel import Sink, content_of, parts
from pytest_readonly_vm.channels.jobs import JobFiles, absolute, os_error, quoted, script_line
from pytest_readonly_vm.channels.stream import Stream
from pytest_readonly_vm.errors import ChannelError, ChannelLost, GuestDied
from pytest_readonly_vm.host.interruption import quiet

_WRITTEN_AT_ONCE = 3 << 18  # bytes, a multiple of three: base64 without padding
_PATIENCE_WITH_THE_DYING = 10.0
_HEADER = re.compile(rb"([0-9a-f]{32}) <")
_END = re.compile(rb"([0-9a-z ]+) >")
_LONGEST_LINE = 256  # bytes of a line that are looked at

_START = (
    jobs.PLACE
    + jobs.FUNCTIONS
    + r"""
_rv_settle
mkfifo turn && exec 8>&1 9<>turn && echo >&9 || _rv_room=
_rv_tell() {
    case $2 in *full) set -- "$1" "$2" nothing ;; esac
    read -r _rv_x <&9
    if [ -s "$3.out" ] || [ -s "$3.err" ]; then
        _rv_x=
        printf '\n%s <\n' "$1"
        [ ! -s "$3.out" ] || cat "$3.out" || _rv_x=' unsent'
        printf '\n%s -\n' "$1"
        [ ! -s "$3.err" ] || cat "$3.err" || _rv_x=' unsent'
        printf '\n%s %s >\n' "$1" "$2$_rv_x"
    else
        printf '\n%s <\n\n%s -\n\n%s %s >\n' "$1" "$1" "$1" "$2"
    fi >&8
    echo >&9
}
_rv_read() {
    read -r _rv_x <&9
    {
        printf '\n%s <\n' "$1"
        LC_ALL=C cat -- "$3" 2>"$2.err"
        _rv_x=$?
        [ -e "$2.err" ] || _rv_x="$_rv_x lost"
        printf '\n%s -\n' "$1"
        [ -s "$2.err" ] && cat "$2.err"
        printf '\n%s %s >\n' "$1" "$_rv_x"
    } >&8
    echo >&9
}
_rv_write() {
    if [ "$_rv_folder" ]; then TMPDIR=$_rv_folder; else unset TMPDIR; fi
    if [ ! -e "$3" ]; then
        echo "$3: No such file or directory" >&2
        false
    else
        base64 -d >>"$3" || { printf %4096s x | LC_ALL=C cat >>"$3"; false; } # which says why
    fi 2>"$2.err"
    _rv_done "$1" $? "$2"
}
_rv_empty() {
    { true >"$3"; } 2>"$2.err"
    _rv_done "$1" $? "$2"
}
_rv_done() {
    _rv_s=$2
    [ "$_rv_s" = 0 ] || _rv_has_room || _rv_s="$_rv_s full"
    [ -e "$3.err" ] || _rv_s="$2 lost"
    _rv_tell "$1" "$_rv_s" "$3"
}
"""
)


@dataclass(slots=True)
class _Frame:
    stdout: Sink
    stderr: Sink
    size: int = 0
    """Bytes that have come of both."""
    words: asyncio.Future[list[bytes]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """What the shell has told of the end."""

    def take(self, sink: Sink, piece: bytes) -> None:
        """Give a piece to a sink; one that refuses it gets no more, and who waits for the frame is told."""
        self.size += len(piece)
        if not self.words.done():
            try:
                sink(piece)
            except Exception as refusal:  # the sink's own
                self.fail(refusal)

    def fail(self, error: Exception) -> None:
        if not self.words.done():
            self.words.set_exception(error)
            self.words.exception()  # somebody who was cancelled will not ask for it


class ShellSession:
    """The host's end of it: what a `Channel` can do, but for its name and why it does not answer.

    Attributes: `stream`, which is closed with it.
    """

    def __init__(self, stream: Stream, name: str) -> None:
        self.stream = stream
        self._name = name
        self._frames: dict[bytes, _Frame] = {}
        self._buffer = bytearray()
        self._reader: asyncio.Task[None] | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._files = JobFiles(name)
        self._typing = asyncio.Lock()
        self._is_ready = False
        self._opening = -1  # the stream's losses when the shell was first typed to

    def is_open(self) -> bool:
        is_read = self._reader is not None and not self._reader.done()
        return self._is_ready and is_read and self._opening == self.stream.losses

    async def open(self) -> None:
        await self._stop_reading()
        self._is_ready = False
        self._opening = self.stream.losses
        self._buffer.clear()
        self._reader = asyncio.ensure_future(self._read())
        answer = bytearray()
        nonce, frame = self._expect(answer.extend, bytes)
        hello = f"printf '\\n%s <\\n%s\\n%s -\\n\\n%s 0 >\\n' {nonce} \"$_rv_room\" {nonce} {nonce}\n"
        await self._type(_START.replace("FOLDER", jobs.folder_name()).encode() + hello.encode())
        await self._result(nonce, frame)
        if not answer:
            raise ChannelError(f"{self._name}: the guest's shell has no place to write in {', '.join(jobs.PLACES)}")
        self._files = JobFiles(self._name, answer.decode(errors="replace"), self._files.number)
        self._is_ready = True

    async def part(self) -> Mapping[str, Any] | None:
        return {"room": self._files.room, "number": self._files.number} if self.is_open() else None

    async def resume(self, parted: Mapping[str, Any]) -> None:
        self._opening = self.stream.losses
        self._reader = asyncio.ensure_future(self._read())
        self._files = JobFiles(self._name, parted["room"], parted["number"])
        self._is_ready = True

    # What comes from the guest.

    def _expect(self, stdout: Sink, stderr: Sink) -> tuple[str, _Frame]:
        if self._reader is None or self._reader.done():
            raise ChannelLost(f"{self._name}: the shell's answers are not read any more")
        nonce = secrets.token_hex(16)
        frame = self._frames[nonce.encode()] = _Frame(stdout, stderr)
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
            header = _HEADER.fullmatch(await self._line())
            if header is None or (frame := self._frames.get(header[1])) is None:
                continue
            await self._until(b"\n" + header[1] + b" -\n", partial(frame.take, frame.stdout))
            await self._until(b"\n" + header[1] + b" ", partial(frame.take, frame.stderr))
            line = await self._line()
            if not (end := _END.fullmatch(line)):
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

    async def _result(self, nonce: str, frame: _Frame) -> list[bytes]:
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
                await self._write(source.encode(), content_of(input))
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
                    await self._type(f"_rv_kill {nonce}\n".encode())
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
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def close(self) -> None:
        await self._stop_reading()
        await self.stream.close()


def _words(*texts: str) -> tuple[bytes, ...]:
    return tuple(text.encode() for text in texts)
