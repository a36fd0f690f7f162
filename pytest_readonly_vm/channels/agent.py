"""Owns the channel to the QEMU guest agent, over virtio-serial: no network needed, only the agent in the guest.

The protocol: https://www.qemu.org/docs/master/interop/qemu-ga-ref.html. The agent serves one request at a time, and a
program that it starts costs much more than a request. So it starts one shell, once; that reads our lines from a FIFO,
runs them as `jobs`, and appends to a file which of them have ended.
"""

import asyncio
import base64
import contextlib
import json
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from pytest_readonly_vm.channels import jobs
from pytest_readonly_vm.channels.channel import Sink
from pytest_readonly_vm.channels.console import shown
from pytest_readonly_vm.channels.jobs import JobFiles, absolute, os_error, quoted, script_line
from pytest_readonly_vm.channels.port import Port
from pytest_readonly_vm.errors import ChannelError, ChannelLost, GuestDied

T = TypeVar("T")

_SENTINEL = b"\xff"
_READ_AT_ONCE = 1 << 20  # bytes
_WRITTEN_AT_ONCE = 1 << 18
_TYPED_AT_ONCE = 4000  # bytes: less than PIPE_BUF, so a FIFO takes all of it or nothing
_LONGEST_TYPED = 1 << 14  # bytes; what is longer goes by a file
_LONGEST_END = 256  # bytes of a line that tells of an end
_FIRST_POLL = 0.001
_LONGEST_POLL = 0.1
_PATIENCE_WITH_THE_DYING = 10.0
_FULL = "Resource temporarily unavailable"

_MOST_UNREAD = 28 << 10  # bytes: a FIFO that takes 16 pieces takes this of any size below _TYPED_AT_ONCE

# The list of the ended jobs has a place of its own, to which it can be written when the jobs have filled theirs.
_START = (
    jobs.PLACE
    + r"""
_rv_hide 16m
mkfifo lines && exec 9<>lines 8>>ended || exit
_rv_settle
echo "$_rv_room" >FOLDER
command -v setsid >/dev/null && exec setsid /bin/sh <&9
exec /bin/sh <&9
"""
)
# Who cannot tell that a job has ended ends the shell: that is seen.
_TELL = r"""
_rv_tell() {
    _rv_x="$1 $2"
    [ -s "$3.out" ] && _rv_x="$_rv_x out"
    [ -s "$3.err" ] && _rv_x="$_rv_x err"
    echo "$_rv_x" >&8 || kill -KILL $$
}
"""


class AgentRefusal(Exception):
    """The agent answered a request with an error."""


class Agent:
    """A `Channel` over the agent that has `port` open."""

    name = "agent"

    def __init__(self, port: Port, name: str) -> None:
        self._port = port
        self._name = name
        self._turn = asyncio.Lock()
        self._typing = asyncio.Lock()
        self._files = JobFiles(name)
        self._folder = ""
        self._lines = self._ended = self._shell = 0
        self._unread = 0  # bytes that have been typed since the shell last said that it has read all
        self._jobs: dict[bytes, asyncio.Future[list[bytes]]] = {}
        self._rest = b""  # of what has been read of the list of ended jobs
        self._watch: asyncio.Task[None] | None = None
        self._newest = 0.0
        self._refusal = ""
        self._is_ready = False
        self._opening = -1  # the port's losses when the agent answered

    def is_open(self) -> bool:
        return self._is_ready and self._opening == self._port.losses

    def why_not(self) -> str:
        if self._refusal:
            return self._refusal
        return "does not answer" if self._port.was_open else "silent (is qemu-guest-agent installed and running?)"

    async def open(self) -> None:
        await self._stop_watching()
        self._is_ready = False
        # If the guest closes the port meanwhile, it may have taken the question along: to be asked again.
        self._opening = self._port.losses
        await self._port.race(self._sync(), since=self._opening)
        try:
            name = jobs.folder_name()
            script = _START.replace("FOLDER", name)
            started = await self._ask("guest-exec", path="/bin/sh", arg=["-c", script])
            self._shell = self._field(started, "pid", int)
            room = await self._settle(name)
        except AgentRefusal as refusal:
            self._refusal = f"it refuses what is needed ({refusal})"
            raise ChannelError(f"{self._name}: the guest agent {self._refusal}") from None
        self._files = JobFiles(self._name, room, self._files.number)
        self._unread, self._rest = 0, b""
        await self._type((jobs.FUNCTIONS + _TELL).encode())
        self._is_ready = True

    async def part(self) -> Mapping[str, Any] | None:
        if not self.is_open():
            return None
        files = {"folder": self._folder, "room": self._files.room, "number": self._files.number}
        rest = self._rest.decode("latin-1")
        return {"shell": self._shell, "lines": self._lines, "ended": self._ended, "rest": rest, **files}

    async def resume(self, parted: Mapping[str, Any]) -> None:
        self._opening = self._port.losses
        await self._port.race(self._sync(), since=self._opening)
        self._shell, self._lines, self._ended = parted["shell"], parted["lines"], parted["ended"]
        self._rest, self._folder = parted["rest"].encode("latin-1"), parted["folder"]
        self._files = JobFiles(self._name, parted["room"], parted["number"])
        self._is_ready = True

    async def _sync(self) -> None:
        """Throw away what is left of an earlier conversation, then agree on a number."""
        async with self._turn:
            number = secrets.randbelow(1 << 31)
            request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
            await self._port.send(_SENTINEL + json.dumps(request).encode() + b"\n")
            while True:
                _, sentinel, answer = (await self._port.line()).rpartition(_SENTINEL)
                with contextlib.suppress(ValueError):
                    if sentinel and json.loads(answer) == {"return": number}:
                        return

    async def _settle(self, name: str) -> str:
        """Open what the shell has made, once the file of that name is there, which it makes last; tells the room.

        Its working folder and descriptors lead to what has no path. Where there is no /proc, there are paths.
        """
        process = f"/proc/{self._shell}"
        while True:
            for folder in (f"{process}/cwd", *(f"{place}/{name}" for place in jobs.PLACES)):
                room = bytearray()
                with contextlib.suppress(OSError):
                    await self.read_file(f"{folder}/{name}".encode(), room.extend)
                if room.endswith(b"\n"):
                    self._folder = folder
                    ways = ("fd/8", "fd/9") if folder.startswith(process) else (f"{name}/ended", f"{name}/lines")
                    parent = folder.rpartition("/")[0]
                    self._ended = await self._open(f"{parent}/{ways[0]}", "r")
                    self._lines = await self._open(f"{parent}/{ways[1]}", "w")
                    return room.decode(errors="replace")
            if self._field(await self._ask("guest-exec-status", pid=self._shell), "exited", bool):
                self._refusal = f"has no shell with a place to write in {', '.join(jobs.PLACES)}"
                raise ChannelError(f"{self._name}: the guest agent {self._refusal}")
            await asyncio.sleep(_FIRST_POLL)

    # Requests.

    async def _ask(self, command: str, /, **arguments: object) -> Any:
        """One request and its answer; never left half done, whoever is cancelled."""
        task = asyncio.ensure_future(self._exchange(command, arguments))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _exchange(self, command: str, arguments: dict[str, object]) -> Any:
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        async with self._turn:
            await self._port.send(json.dumps({"execute": command, "arguments": named}).encode() + b"\n")
            line = await self._port.race(self._port.line(), since=self._opening)
        try:
            answer = json.loads(line)
        except ValueError:
            raise self._nonsense(line) from None
        if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            raise AgentRefusal(shown(str(answer["error"].get("desc", "no reason given"))))
        return self._field(answer, "return", object)

    def _field(self, answer: object, name: str, kind: type[T]) -> T:
        """A part of an answer, which comes from the guest: it may be anything."""
        value = answer.get(name) if isinstance(answer, dict) else None
        if not isinstance(value, kind):
            raise self._nonsense(answer)
        return value

    def _nonsense(self, answer: object) -> ChannelError:
        return ChannelError(f"{self._name}: the guest agent answers what makes no sense: {answer!r:.80}")

    async def _open(self, path: str, mode: str) -> int:
        handle = await self._ask("guest-file-open", path=path, mode=mode)
        if not isinstance(handle, int):
            raise self._nonsense(handle)
        return handle

    def _decoded(self, read: object) -> bytes:
        try:
            return base64.b64decode(self._field(read, "buf-b64", str))
        except ValueError:
            raise self._nonsense(read) from None

    # Jobs.

    async def _type(self, text: bytes) -> None:
        """Have the shell read a text; of texts that it has not read there are never more than its FIFO takes."""
        async with self._typing:
            if self._unread + len(text) > _MOST_UNREAD:
                nonce, read = self._expect()
                await self._put(b"echo %s 0 >&8\n" % nonce)
                self._look()
                await self._told(nonce, read)
                self._unread = 0
            self._unread += len(text)
            await self._put(text)

    async def _put(self, text: bytes) -> None:
        for part in _parts(text, _TYPED_AT_ONCE):
            while part:
                written = await self._feed("guest-file-write", buf_b64=base64.b64encode(part).decode())
                part = part[max(1, self._field(written, "count", int)) :]
            await self._feed("guest-file-flush")

    async def _feed(self, command: str, /, **arguments: object) -> Any:
        """A request to the shell's FIFO. One that is refused as that is full has done nothing, and is made again."""
        while True:
            try:
                return await self._ask(command, handle=self._lines, **arguments)
            except AgentRefusal as refusal:
                if _FULL not in str(refusal):
                    self._is_ready = False
                    raise ChannelLost(f"{self._name}: the guest agent was started anew: {refusal}") from None
                await asyncio.sleep(_FIRST_POLL)

    def _expect(self) -> tuple[bytes, asyncio.Future[list[bytes]]]:
        nonce = secrets.token_hex(16).encode()
        ended = self._jobs[nonce] = asyncio.get_running_loop().create_future()
        return nonce, ended

    async def _told(self, nonce: bytes, ended: asyncio.Future[list[bytes]]) -> list[bytes]:
        try:
            return await asyncio.shield(ended)
        finally:
            if ended.done():
                self._jobs.pop(nonce, None)

    async def execute(self, script: bytes, *, input: bytes, stdout: Sink, stderr: Sink) -> int:
        files, base = self._files, self._files.new_base()
        nonce, ended = self._expect()
        size = len(input)
        try:
            source = await self._bring(f"{base}.in", input) if input else ""
            line = _line(nonce, base, source, script_line(script))
            if len(line) > _LONGEST_TYPED:
                name = await self._bring(f"{base}.sh", script_line(script))
                line = _line(nonce, base, source, f". ./{name}".encode())
            typing = asyncio.ensure_future(self._type(files.tidying() + line))
            typing.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:
                await asyncio.shield(typing)
                self._look()
                told = await self._told(nonce, ended)
            except asyncio.CancelledError:
                with contextlib.suppress(TimeoutError, ChannelError, GuestDied):
                    async with asyncio.timeout(_PATIENCE_WITH_THE_DYING):
                        await typing
                        await self._type(b"_rv_kill %s\n" % nonce)
                        self._look()
                        size += await self._collect(base, await self._told(nonce, ended), stdout, stderr)
                raise
            size += await self._collect(base, told, stdout, stderr)
            return files.status(told)
        except ChannelLost:
            self._is_ready = False
            raise
        finally:
            self._jobs.pop(nonce, None)
            files.ended(base, size)
            if files.are_large and self.is_open():
                asyncio.ensure_future(self._type(files.tidying())).add_done_callback(
                    lambda done: done.cancelled() or done.exception()
                )

    async def _bring(self, name: str, data: bytes) -> str:
        """Put what a job needs to where its files are."""
        try:
            await self.write_file(f"{self._folder}/{name}".encode(), _pieces(data))
        except OSError as refusal:
            raise self._files.refusal(len(data), refusal) from None
        return name

    async def _collect(self, base: str, told: list[bytes], stdout: Sink, stderr: Sink) -> int:
        """Give the sinks what a job has printed; how many bytes that is."""
        size = 0

        def take(sink: Sink, piece: bytes) -> None:
            nonlocal size
            size += len(piece)
            sink(piece)

        for kind, sink in ((b"out", stdout), (b"err", stderr)):
            if kind in told:
                path = f"{self._folder}/{base}.{kind.decode()}".encode()
                try:
                    async with self._opened(path, "r") as handle:
                        await self._read(path, handle, partial(take, sink))
                except OSError as refusal:
                    if refusal.filename != os.fsdecode(path):
                        raise  # the sink's own
                    reason = shown(refusal.strerror or "")
                    raise ChannelError(
                        f"{self._name}: the agent cannot read what the command printed: {reason}"
                    ) from None
        return size

    def _look(self) -> None:
        """Watch for ends of jobs, from now on more closely again."""
        self._newest = asyncio.get_running_loop().time()
        if self._watch is None or self._watch.done():
            self._watch = asyncio.ensure_future(self._watch_ends())

    async def _watch_ends(self) -> None:
        """Tell the ends of jobs until none is waited for. Whatever ends this is told to all who wait."""
        end: Exception = ChannelLost(f"{self._name}: the channel was closed or opened anew meanwhile")
        try:
            await self._read_ends()
        except AgentRefusal as refusal:
            end = ChannelLost(f"{self._name}: the guest agent was started anew: {refusal}")
        except Exception as error:
            end = error
        finally:
            for ended in self._jobs.values():
                if not ended.done():
                    self._is_ready = False
                    ended.set_exception(end)
                    ended.exception()  # somebody who was cancelled will not ask for it

    async def _read_ends(self) -> None:
        while self._jobs:
            read = self._decoded(await self._ask("guest-file-read", handle=self._ended, count=_READ_AT_ONCE))
            *lines, rest = (self._rest + read).split(b"\n")
            self._rest = rest[-_LONGEST_END:]
            for line in lines:
                nonce, _, result = line.partition(b" ")
                if (ended := self._jobs.get(nonce)) and not ended.done():
                    ended.set_result(result.split())
            if not lines:
                # The longer the newest job has taken, the longer it may take: at most an eighth is lost in sleep.
                elapsed = asyncio.get_running_loop().time() - self._newest
                if elapsed > _LONGEST_POLL:
                    status = await self._ask("guest-exec-status", pid=self._shell)
                    if self._field(status, "exited", bool):
                        raise ChannelLost(f"{self._name}: the agent's shell was killed in the guest")
                await asyncio.sleep(max(_FIRST_POLL, min(elapsed / 8, _LONGEST_POLL)))
            elif all(ended.done() for ended in self._jobs.values()):
                return

    async def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    # Files.

    async def read_file(self, path: bytes, sink: Sink) -> None:
        async with self._opened(path, "r") as handle:
            await self._read(path, handle, sink)

    async def _read(self, path: bytes, handle: int, sink: Sink) -> None:
        eof = False
        while not eof:
            read = await self._about(path, "guest-file-read", handle=handle, count=_READ_AT_ONCE)
            sink(self._decoded(read))
            eof = self._field(read, "eof", bool)

    async def write_file(self, path: bytes, content: AsyncIterator[bytes]) -> None:
        async with self._opened(path, "w") as handle:
            async for piece in content:
                for part in _parts(piece, _WRITTEN_AT_ONCE):
                    while part:
                        data = base64.b64encode(part).decode()
                        written = await self._about(path, "guest-file-write", handle=handle, buf_b64=data)
                        part = part[max(1, self._field(written, "count", int)) :]

    @contextlib.asynccontextmanager
    async def _opened(self, path: bytes, mode: str) -> AsyncIterator[int]:
        try:
            name = path.decode()
        except UnicodeDecodeError:  # which JSON cannot say
            name = await self._link(path)
        handle = await self._about(path, "guest-file-open", path=name, mode=mode)
        if not isinstance(handle, int):
            raise self._nonsense(handle)
        try:
            yield handle
            if mode == "w":
                await self._about(path, "guest-file-flush", handle=handle)
        finally:
            with contextlib.suppress(AgentRefusal, ChannelError, GuestDied):
                await self._ask("guest-file-close", handle=handle)

    async def _link(self, path: bytes) -> str:
        """A name for a file whose own is no UTF-8."""
        base, complaint = self._files.new_base(), bytearray()
        name = f"{self._folder}/{base}.link"
        script = b"ln -s -- %s %s" % (quoted(absolute(path)), name.encode())
        if await self.execute(script, input=b"", stdout=bytes, stderr=complaint.extend) != 0:
            raise os_error(complaint.decode(errors="replace"), path)
        return name

    async def _about(self, file: bytes, command: str, /, **arguments: object) -> Any:
        """A request about a file, whose refusal is an `OSError`."""
        try:
            return await self._ask(command, **arguments)
        except AgentRefusal as refusal:
            raise os_error(str(refusal), file) from None

    async def close(self) -> None:
        await self._stop_watching()
        await self._port.close()


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _line(nonce: bytes, base: str, source: str, script: bytes) -> bytes:
    return b"_rv_run %s %s %s %s\n" % (nonce, base.encode(), quoted(source.encode()), quoted(script))


def _parts(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
