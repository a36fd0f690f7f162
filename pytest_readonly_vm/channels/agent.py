"""Owns the channel to the QEMU guest agent, over virtio-serial: no network needed, only the agent in the guest.

The protocol: https://www.qemu.org/docs/master/interop/qemu-ga-ref.html. The agent serves one request at a time, and a
program that it starts costs much more than a request. So it starts one shell, once; that reads our lines from a FIFO,
runs them as `jobs`, and appends to a file which of them have ended.
"""

import asyncio
import base64
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from pytest_readonly_vm.channels import jobs
from pytest_readonly_vm.channels.channel import Sink
from pytest_readonly_vm.channels.jobs import JobFiles, os_error, quoted
from pytest_readonly_vm.channels.port import Port
from pytest_readonly_vm.errors import ChannelError, ChannelLost, GuestDied

_SENTINEL = b"\xff"
_READ_AT_ONCE = 1 << 20  # bytes
_WRITTEN_AT_ONCE = 1 << 18
_TYPED_AT_ONCE = 4000  # bytes: less than PIPE_BUF, so a FIFO takes all of it or nothing
_LONGEST_TYPED = 1 << 14  # bytes; what is longer goes by a file
_FIRST_POLL = 0.001
_LONGEST_POLL = 0.1
_PATIENCE_WITH_THE_DYING = 10.0
_FULL = "Resource temporarily unavailable"

_START = (
    jobs.MAKE_FOLDER
    + r"""
mkfifo "$_rv_d/lines" && exec 3<>"$_rv_d/lines" && true >"$_rv_d/ended" || exit
command -v setsid >/dev/null && exec setsid /bin/sh <&3 3>&- 8>>"$_rv_d/ended"
exec /bin/sh <&3 3>&- 8>>"$_rv_d/ended"
"""
)
_TELL = r"""
_rv_tell() {
    _rv_x="$1 $2"
    [ -s "$3.out" ] && _rv_x="$_rv_x out"
    [ -s "$3.err" ] && _rv_x="$_rv_x err"
    echo "$_rv_x" >&8
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
        self._files = JobFiles("")
        self._lines = self._ended = self._shell = 0
        self._jobs: dict[str, asyncio.Future[list[str]]] = {}
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
            self._shell = (await self._ask("guest-exec", path="/bin/sh", arg=["-c", script]))["pid"]
            folder = await self._folder(name)
            self._lines = await self._ask("guest-file-open", path=f"{folder}/lines", mode="w")
        except AgentRefusal as refusal:
            self._refusal = f"it refuses what is needed ({refusal})"
            raise ChannelError(f"{self._name}: the guest agent {self._refusal}") from None
        self._files = JobFiles(folder)
        await self._type((jobs.FUNCTIONS + _TELL).encode())
        self._is_ready = True

    async def part(self) -> Mapping[str, Any] | None:
        if not self.is_open():
            return None
        files = {"folder": self._files.folder, "number": self._files.number}
        return {"shell": self._shell, "lines": self._lines, "ended": self._ended, **files}

    async def resume(self, parted: Mapping[str, Any]) -> None:
        self._opening = self._port.losses
        await self._port.race(self._sync(), since=self._opening)
        self._shell, self._lines, self._ended = parted["shell"], parted["lines"], parted["ended"]
        self._files = JobFiles(parted["folder"], parted["number"])
        self._is_ready = True

    async def _sync(self) -> None:
        """Throw away what is left of an earlier conversation, then agree on a number."""
        async with self._turn:
            number = secrets.randbelow(1 << 31)
            request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
            await self._port.send(_SENTINEL + json.dumps(request).encode() + b"\n")
            while True:
                _, sentinel, answer = (await self._port.line()).rpartition(_SENTINEL)
                if sentinel and json.loads(answer).get("return") == number:
                    return

    async def _folder(self, name: str) -> str:
        """Where the shell has made its folder, once the file is there that it makes last."""
        while True:
            for place in jobs.PLACES:
                with contextlib.suppress(AgentRefusal):
                    folder = f"{place}/{name}"
                    self._ended = await self._ask("guest-file-open", path=f"{folder}/ended", mode="r")
                    return folder
            if (await self._ask("guest-exec-status", pid=self._shell))["exited"]:
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
            answer = json.loads(await self._port.race(self._port.line(), since=self._opening))
        if "error" in answer:
            raise AgentRefusal(answer["error"].get("desc", "no reason given"))
        return answer["return"]

    # Jobs.

    async def _type(self, text: bytes) -> None:
        """Have the shell read a text."""
        async with self._typing:
            for part in _parts(text, _TYPED_AT_ONCE):
                data = base64.b64encode(part).decode()
                while True:
                    try:
                        await self._ask("guest-file-write", handle=self._lines, buf_b64=data)
                        await self._ask("guest-file-flush", handle=self._lines)
                        break
                    except AgentRefusal as refusal:
                        if _FULL not in str(refusal):
                            raise ChannelLost(f"{self._name}: the guest agent was started anew: {refusal}") from None
                        await asyncio.sleep(_FIRST_POLL)

    async def execute(self, script: bytes, *, input: bytes, stdout: Sink, stderr: Sink) -> int:
        base = self._files.new_base()
        source = "/dev/null"
        if input:
            source = f"{base}.in"
            await self.write_file(source.encode(), _pieces(input))
        if len(script) > _LONGEST_TYPED:
            await self.write_file(f"{base}.sh".encode(), _pieces(script))
            script = f". {base}.sh".encode()
        nonce = secrets.token_hex(16)
        ended = self._jobs[nonce] = asyncio.get_running_loop().create_future()
        line = f"_rv_run {nonce} {base} {source} ".encode() + quoted(script) + b"\n"
        typing = asyncio.ensure_future(self._type(self._files.tidying() + line))
        typing.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.shield(typing)
            self._look()
            status, *printed = await asyncio.shield(ended)
        except asyncio.CancelledError:
            with contextlib.suppress(TimeoutError, ChannelError, GuestDied):
                async with asyncio.timeout(_PATIENCE_WITH_THE_DYING):
                    await typing
                    await self._type(f"_rv_kill {nonce}\n".encode())
                    self._look()
                    _, *printed = await asyncio.shield(ended)
                    await self._collect(base, printed, stdout, stderr)
            raise
        finally:
            self._jobs.pop(nonce, None)
        await self._collect(base, printed, stdout, stderr)
        return int(status)

    async def _collect(self, base: str, printed: list[str], stdout: Sink, stderr: Sink) -> None:
        for kind, sink in (("out", stdout), ("err", stderr)):
            if kind in printed:
                await self.read_file(f"{base}.{kind}".encode(), sink)

    def _look(self) -> None:
        """Watch for ends of jobs, from now on more closely again."""
        self._newest = asyncio.get_running_loop().time()
        if self._watch is None or self._watch.done():
            self._watch = asyncio.ensure_future(self._watch_ends())

    async def _watch_ends(self) -> None:
        try:
            rest = ""
            while self._jobs:
                read = await self._ask("guest-file-read", handle=self._ended, count=_READ_AT_ONCE)
                *lines, rest = (rest + base64.b64decode(read["buf-b64"]).decode()).split("\n")
                for line in lines:
                    nonce, *result = line.split()
                    if (ended := self._jobs.get(nonce)) and not ended.done():
                        ended.set_result(result)
                if not lines:
                    # The longer the newest job has taken, the longer it may take: at most an eighth is lost in sleep.
                    elapsed = asyncio.get_running_loop().time() - self._newest
                    if elapsed > _LONGEST_POLL and (await self._ask("guest-exec-status", pid=self._shell))["exited"]:
                        raise ChannelLost(f"{self._name}: the agent's shell was killed in the guest")
                    await asyncio.sleep(max(_FIRST_POLL, min(elapsed / 8, _LONGEST_POLL)))
                elif all(ended.done() for ended in self._jobs.values()):
                    return
        except (AgentRefusal, ChannelError, GuestDied) as end:
            error = end
            if isinstance(end, AgentRefusal):
                error = ChannelLost(f"{self._name}: the guest agent was started anew: {end}")
            for ended in self._jobs.values():
                if not ended.done():
                    ended.set_exception(error)
                    ended.exception()  # somebody who was cancelled will not ask for it

    async def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    # Files.

    async def read_file(self, path: bytes, sink: Sink) -> None:
        async with self._opened(path, "r") as handle:
            eof = False
            while not eof:
                read = await self._about(path, "guest-file-read", handle=handle, count=_READ_AT_ONCE)
                sink(base64.b64decode(read["buf-b64"]))
                eof = read["eof"]

    async def write_file(self, path: bytes, content: AsyncIterator[bytes]) -> None:
        async with self._opened(path, "w") as handle:
            async for piece in content:
                for part in _parts(piece, _WRITTEN_AT_ONCE):
                    data = base64.b64encode(part).decode()
                    await self._about(path, "guest-file-write", handle=handle, buf_b64=data)
            await self._about(path, "guest-file-flush", handle=handle)

    @contextlib.asynccontextmanager
    async def _opened(self, path: bytes, mode: str) -> AsyncIterator[int]:
        try:
            name = path.decode()
        except UnicodeDecodeError:  # which JSON cannot say
            name = f"{self._files.new_base()}.link"
            script = b"ln -s -- %s %s" % (quoted(path), name.encode())
            await self.execute(script, input=b"", stdout=bytes, stderr=bytes)
        handle: int = await self._about(path, "guest-file-open", path=name, mode=mode)
        try:
            yield handle
        finally:
            with contextlib.suppress(AgentRefusal, ChannelError, GuestDied):
                await self._ask("guest-file-close", handle=handle)

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


def _parts(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
