"""Owns the channel to the QEMU guest agent, over virtio-serial: no network needed, only the agent in the guest.

A program that the agent starts costs much more than another request. So it starts one shell, once; that reads our
lines from a FIFO, runs them as `jobs`, and appends to a file which of them have ended.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Mapping
from functools import partial
from typing import Any, TypeVar

from pytest_readonly_vm.channels.channel import Sink, content_of, parts
from pytest_readonly_vm.channels.jobs import absolute, os_error, quoted, script_line
from pytest_readonly_vm.channels.port import Port
from pytest_readonly_vm.channels.qga import AgentRefusal, Qga
from pytest_readonly_vm.channels.resident import Resident
from pytest_readonly_vm.errors import ChannelError, ChannelLost, GuestDied
from pytest_readonly_vm.printable import shown

T = TypeVar("T")

_READ_AT_ONCE = 1 << 20  # bytes
_WRITTEN_AT_ONCE = 1 << 18
_LONGEST_TYPED = 1 << 14  # bytes; what is longer goes by a file
_PATIENCE_WITH_THE_DYING = 10.0


class Agent:
    """A `Channel` over the agent that has `port` open."""

    name = "agent"

    def __init__(self, port: Port, name: str) -> None:
        self._port = port
        self._name = name
        self._qga = Qga(port, name)
        self._resident: Resident | None = None
        self._refusal = ""

    def is_open(self) -> bool:
        return self._resident is not None and not self._resident.is_lost and self._qga.is_open

    def why_not(self) -> str:
        if self._refusal:
            return self._refusal
        return "does not answer" if self._port.was_open else "silent (is qemu-guest-agent installed and running?)"

    async def open(self) -> None:
        await self._leave()
        await self._qga.sync()
        self._refusal = ""
        try:
            self._resident = await Resident.start(self._qga, self._name)
        except AgentRefusal as refusal:
            self._refusal = f"it refuses what is needed ({refusal})"
            raise ChannelError(f"{self._name}: the guest agent {self._refusal}") from None

    async def part(self) -> Mapping[str, Any] | None:
        return self._resident.part() if self._resident and self.is_open() else None

    async def resume(self, parted: Mapping[str, Any]) -> None:
        await self._qga.sync()
        self._resident = Resident(self._qga, self._name, parted)

    async def _leave(self) -> None:
        if self._resident is not None:
            resident, self._resident = self._resident, None
            await resident.leave()

    # Jobs.

    @property
    def _shell(self) -> Resident:
        if self._resident is None:
            raise ChannelLost(f"{self._name}: the channel was closed or is being opened anew")
        return self._resident

    async def execute(self, script: bytes, *, input: bytes, stdout: Sink, stderr: Sink) -> int:
        shell = self._shell
        base, size, is_typed = shell.files.new_base(), len(input), False
        nonce = shell.expect()
        try:
            source = await self._bring(shell, f"{base}.in", input) if input else ""
            line = _line(nonce, base, source, script_line(script))
            if len(line) > _LONGEST_TYPED:
                name = await self._bring(shell, f"{base}.sh", script_line(script))
                line = _line(nonce, base, source, f". ./{name}".encode())
            is_typed = True
            try:
                await shell.type(shell.files.tidying() + line)
                told = await shell.told(nonce)
            except asyncio.CancelledError:
                with contextlib.suppress(TimeoutError, ChannelError, GuestDied):
                    async with asyncio.timeout(_PATIENCE_WITH_THE_DYING):
                        await shell.type(b"_rv_kill %s %s\n" % (nonce, base.encode()))
                        size += await self._collect(shell, base, await shell.told(nonce), stdout, stderr)
                raise
            status = shell.files.status(told)
            size += await self._collect(shell, base, told, stdout, stderr)
            return status
        except ChannelLost:
            shell.is_lost = True
            raise
        finally:
            if shell.forget(nonce) or not is_typed:
                shell.tidy(base, size)

    async def _bring(self, shell: Resident, name: str, data: bytes) -> str:
        """Put what a job needs to where its files are."""
        try:
            await self.write_file(f"{shell.folder}/{name}".encode(), content_of(data))
        except OSError as refusal:
            raise shell.files.refusal(len(data), refusal) from None
        return name

    async def _collect(self, shell: Resident, base: str, told: list[bytes], stdout: Sink, stderr: Sink) -> int:
        """Give the sinks what a job has printed; how many bytes that is."""
        size = 0

        def take(sink: Sink, piece: bytes) -> None:
            nonlocal size
            size += len(piece)
            sink(piece)

        for kind, sink in (("out", stdout), ("err", stderr)):
            if kind.encode() in told:
                path = f"{shell.folder}/{base}.{kind}".encode()
                try:
                    await self.read_file(path, partial(take, sink))
                except OSError as refusal:
                    if refusal.filename != os.fsdecode(path):
                        raise  # the sink's own
                    reason = f"the agent cannot read what the command printed: {shown(refusal.strerror or '')}"
                    raise ChannelError(f"{self._name}: {reason}") from None
        return size

    async def keep_helper(self, program: bytes, *, idle: int, trial: bytes) -> None:
        await self._shell.keep_helper(program, idle=idle, trial=trial)

    async def ask_helper(self, message: bytes) -> bool:
        return await self._shell.ask_helper(message)

    # Files.

    async def read_file(self, path: bytes, sink: Sink) -> None:
        async with self._opened(path, "r") as handle:
            eof = False
            while not eof:
                piece, eof = await _about(path, self._qga.read(handle, _READ_AT_ONCE))
                sink(piece)

    async def write_file(self, path: bytes, content: AsyncIterator[bytes]) -> None:
        async with self._opened(path, "w") as handle:
            async for piece in content:
                for part in parts(piece, _WRITTEN_AT_ONCE):
                    while part:
                        part = part[await _about(path, self._qga.write(handle, part)) :]
            await _about(path, self._qga.flush(handle))

    @contextlib.asynccontextmanager
    async def _opened(self, path: bytes, mode: str) -> AsyncIterator[int]:
        try:
            name = path.decode()
        except UnicodeDecodeError:  # which JSON cannot say
            name = await self._link(path)
        handle = await _about(path, self._qga.open_file(name, mode))
        try:
            yield handle
        finally:
            with contextlib.suppress(AgentRefusal, ChannelError, GuestDied):
                await self._qga.close_file(handle)

    async def _link(self, path: bytes) -> str:
        """A name for a file whose own is no UTF-8."""
        name, complaint = f"{self._shell.folder}/{self._shell.files.new_base()}.link", bytearray()
        script = b"ln -s -- %s %s" % (quoted(absolute(path)), name.encode())
        if await self.execute(script, input=b"", stdout=bytes, stderr=complaint.extend) != 0:
            raise os_error(complaint.decode(errors="replace"), path)
        return name

    async def close(self) -> None:
        await self._leave()
        await self._port.close()


async def _about(file: bytes, request: Awaitable[T]) -> T:
    """A request about a file, whose refusal is an `OSError`."""
    try:
        return await request
    except AgentRefusal as refusal:
        raise os_error(str(refusal), file) from None


def _line(nonce: bytes, base: str, source: str, script: bytes) -> bytes:
    return b"_rv_run %s %s %s %s\n" % (nonce, base.encode(), quoted(source.encode()), quoted(script))
