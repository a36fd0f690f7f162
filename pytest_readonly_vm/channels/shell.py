r"""Owns the channel to a root shell that has a virtio-serial port as its input and output. Any POSIX ``sh`` will do.

We type functions into that shell, and then calls of them. Commands run as `jobs`. What comes back are frames::

    \nNONCE <\n  what it printed  \nNONCE -\n  what it printed to stderr  \nNONCE STATUS >\n

The nonce is a random number that only this frame has and that the command does not know, so nothing that is printed
can be taken for the end of a frame. Frames do not mix: whoever sends one takes the only byte out of a FIFO first, and
puts it back afterwards.
"""

import asyncio
import base64
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_readonly_vm.channels import jobs
from pytest_readonly_vm.channels.channel import Sink
from pytest_readonly_vm.channels.jobs import JobFiles, os_error, quoted
from pytest_readonly_vm.channels.port import Port
from pytest_readonly_vm.errors import ChannelError, GuestDied

PORT = "readonly-vm.shell"
"""Name of the port in the guest."""

_WRITTEN_AT_ONCE = 3 << 18  # bytes, a multiple of three: base64 without padding
_PATIENCE_WITH_THE_DYING = 10.0
_HEADER = re.compile(rb"([0-9a-f]{32}) <")

_START = (
    jobs.MAKE_FOLDER
    + jobs.FUNCTIONS
    + r"""
mkfifo "$_rv_d/turn" && exec 8>&1 9<>"$_rv_d/turn" && echo >&9
_rv_tell() {
    read -r _rv_x <&9
    if [ -s "$3.out" ] || [ -s "$3.err" ]; then
        printf '\n%s <\n' "$1"
        [ -s "$3.out" ] && cat "$3.out"
        printf '\n%s -\n' "$1"
        [ -s "$3.err" ] && cat "$3.err"
        printf '\n%s %s >\n' "$1" "$2"
    else
        printf '\n%s <\n\n%s -\n\n%s %s >\n' "$1" "$1" "$1" "$2"
    fi >&8
    echo >&9
}
_rv_read() {
    {
        read -r _rv_x <&9
        {
            printf '\n%s <\n' "$1"
            LC_ALL=C cat -- "$3" 2>"$2.err"
            _rv_x=$?
            printf '\n%s -\n' "$1"
            [ -s "$2.err" ] && cat "$2.err"
            printf '\n%s %s >\n' "$1" $_rv_x
        } >&8
        echo >&9
    } &
}
_rv_write() {
    { base64 -d >>"$3"; } 2>"$2.err"
    _rv_tell "$1" $? "$2"
}
_rv_empty() {
    { true >"$3"; } 2>"$2.err"
    _rv_tell "$1" $? "$2"
}
"""
)


@dataclass(slots=True)
class _Frame:
    stdout: Sink
    stderr: Sink
    status: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Shell:
    """A `Channel` over the shell that has `port` open."""

    name = "shell"

    def __init__(self, port: Port, name: str) -> None:
        self._port = port
        self._name = name
        self._frames: dict[bytes, _Frame] = {}
        self._buffer = bytearray()
        self._reader: asyncio.Task[None] | None = None
        self._files = JobFiles("")
        self._typing = asyncio.Lock()
        self._is_ready = False
        self._opening = -1  # the port's losses when the shell was first typed to

    def is_open(self) -> bool:
        return self._is_ready and self._opening == self._port.losses

    def why_not(self) -> str:
        return "does not answer" if self._port.was_open else "silent (nobody in the guest opened its port)"

    async def open(self) -> None:
        await self._stop_reading()
        self._is_ready = False
        self._opening = self._port.losses
        self._buffer.clear()
        self._reader = asyncio.ensure_future(self._read())
        answer = bytearray()
        nonce, frame = self._expect(answer.extend, bytes)
        hello = f"printf '\\n%s <\\n%s\\n%s -\\n\\n%s 0 >\\n' {nonce} \"$_rv_d\" {nonce} {nonce}\n"
        await self._type(_START.replace("FOLDER", jobs.folder_name()).encode() + hello.encode())
        await self._result(nonce, frame)
        self._files = JobFiles(answer.decode())
        self._is_ready = True

    async def part(self) -> Mapping[str, Any] | None:
        return {"folder": self._files.folder, "number": self._files.number} if self.is_open() else None

    async def resume(self, parted: Mapping[str, Any]) -> None:
        self._opening = self._port.losses
        self._reader = asyncio.ensure_future(self._read())
        self._files = JobFiles(parted["folder"], parted["number"])
        self._is_ready = True

    # What comes from the guest.

    def _expect(self, stdout: Sink, stderr: Sink) -> tuple[str, _Frame]:
        nonce = secrets.token_hex(16)
        frame = self._frames[nonce.encode()] = _Frame(stdout, stderr)
        return nonce, frame

    async def _read(self) -> None:
        """Read frames until the port is closed; then nothing more comes for anybody."""
        try:
            await self._port.race(self._frames_forever(), since=self._opening)
        except (ChannelError, GuestDied) as end:
            for frame in self._frames.values():
                if not frame.status.done():
                    frame.status.set_exception(end)
                    frame.status.exception()  # somebody who was cancelled will not ask for it

    async def _frames_forever(self) -> None:
        while True:
            header = _HEADER.fullmatch(await self._line())
            if header is None or (frame := self._frames.get(header[1])) is None:
                continue
            await self._until(b"\n" + header[1] + b" -\n", frame.stdout)
            await self._until(b"\n" + header[1] + b" ", frame.stderr)
            status = int((await self._line()).split()[0])
            del self._frames[header[1]]
            if not frame.status.done():
                frame.status.set_result(status)

    async def _line(self) -> bytes:
        line = bytearray()
        await self._until(b"\n", line.extend)
        return bytes(line)

    async def _until(self, marker: bytes, sink: Sink) -> None:
        """Give the sink what comes before a marker, as it comes."""
        searched = 0
        while (at := self._buffer.find(marker, searched)) < 0:
            certain = len(self._buffer) - len(marker) + 1
            if certain > 0:
                sink(bytes(self._buffer[:certain]))
                del self._buffer[:certain]
            self._buffer += await self._port.piece()
        if at:
            sink(bytes(self._buffer[:at]))
        del self._buffer[: at + len(marker)]

    async def _result(self, nonce: str, frame: _Frame) -> int:
        try:
            return await asyncio.shield(frame.status)
        finally:
            if frame.status.done():
                self._frames.pop(nonce.encode(), None)

    # What goes to it.

    async def _type(self, text: bytes) -> None:
        """Have the shell read a text; never half of it, whoever is cancelled."""
        task = asyncio.ensure_future(self._send(text))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(task)

    async def _send(self, text: bytes) -> None:
        async with self._typing:
            await self._port.race(self._port.send(text), since=self._opening)

    async def execute(self, script: bytes, *, input: bytes, stdout: Sink, stderr: Sink) -> int:
        base = self._files.new_base()
        source = "/dev/null"
        if input:
            source = f"{base}.in"
            await self.write_file(source.encode(), _pieces(input))
        nonce, frame = self._expect(stdout, stderr)
        await self._type(
            b"%s_rv_run %s %s %s %s\n" % (self._files.tidying(), *_words(nonce, base, source), quoted(script))
        )
        try:
            return await self._result(nonce, frame)
        except asyncio.CancelledError:
            with contextlib.suppress(TimeoutError, ChannelError, GuestDied):
                async with asyncio.timeout(_PATIENCE_WITH_THE_DYING):
                    await self._type(f"_rv_kill {nonce}\n".encode())
                    await self._result(nonce, frame)
            raise

    async def read_file(self, path: bytes, sink: Sink) -> None:
        await self._file("_rv_read", path, sink)

    async def write_file(self, path: bytes, content: AsyncIterator[bytes]) -> None:
        await self._file("_rv_empty", path, bytes)
        async for piece in content:
            for start in range(0, len(piece), _WRITTEN_AT_ONCE):
                end = secrets.token_hex(8).encode()
                data = base64.b64encode(piece[start : start + _WRITTEN_AT_ONCE])
                await self._file("_rv_write", path, bytes, b" <<'%s'\n%s\n%s" % (end, data, end))

    async def _file(self, function: str, path: bytes, sink: Sink, document: bytes = b"") -> None:
        complaint = bytearray()
        nonce, frame = self._expect(sink, complaint.extend)
        words = (*_words(function, nonce, self._files.new_base()), quoted(path))
        await self._type(self._files.tidying() + b" ".join(words) + document + b"\n")
        if await self._result(nonce, frame) != 0:
            raise os_error(complaint.decode(errors="replace"), path)

    async def _stop_reading(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def close(self) -> None:
        await self._stop_reading()
        await self._port.close()


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _words(*texts: str) -> tuple[bytes, ...]:
    return tuple(text.encode() for text in texts)
