"""Owns the timers of a RISC-V guest that goes on from a state. QEMU before 10.2 loads when they are to expire, but
waits for that only once somebody has set them: a guest that was frozen asleep would sleep on.

So each is set to what it says, by QEMU's stub for GDB, the only way from outside to write a register. They are that of
the Sstc extension, and the board's, which firmware sets for a guest without it.

Sources: https://www.qemu.org/docs/master/system/gdb.html, GDB's remote protocol
(https://sourceware.org/gdb/current/onlinedocs/gdb.html/Remote-Protocol.html), QEMU's ``hw/intc/riscv_aclint.c``.
"""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pytest_readonly_vm.errors import StartFailed
from pytest_readonly_vm.qemu.instance import Instance

_PATIENCE = 30.0
_STUB = "gdb"
_REGISTERS = "riscv-csr.xml"
"""What the stub calls its description of the control registers, which it numbers one after the other."""
_SSTATUS = re.compile(r'<reg name="sstatus"[^>]* regnum="(\d+)"')
_FROM_SSTATUS_TO_STIMECMP = 0x14D - 0x100
_BOARDS_TIMERS = re.compile(r"^\s*([0-9a-f]{16})-[0-9a-f]{16} .*: riscv\.aclint\.mtimer\s*$", re.MULTILINE)
_TIMER_BYTES = 8


async def rearm_timers(instance: Instance) -> None:
    """Have QEMU wait for what the timers of a guest that stands still are set to; on the loop.

    :raises StartFailed: that was not possible.
    """
    if not instance.spec.hypervisor.qemu.arch.startswith("riscv"):
        return
    try:
        async with asyncio.timeout(_PATIENCE), _stub(instance) as stub:
            await _rearm_processors(stub)
            await _rearm_board(stub, await _human(instance, "info mtree"), processors=instance.config.cpus)
    except (TimeoutError, OSError, EOFError, ValueError) as error:
        raise StartFailed(f"{instance.name}: the timers of the guest could not be set again: {error!r}") from None


async def _rearm_processors(stub: "_Stub") -> None:
    # QEMU answers for registers beyond the first few only once their description has been read.
    await stub.description("target.xml")
    if (sstatus := _SSTATUS.search(await stub.description(_REGISTERS))) is None:
        raise ValueError("QEMU does not tell the numbers of registers")
    register = f"{int(sstatus[1]) + _FROM_SSTATUS_TO_STIMECMP:x}"
    processor = await stub.ask("qfThreadInfo")
    while processor != "l":
        await stub.tell(f"Hg{processor.removeprefix('m')}")
        value = await stub.ask(f"p{register}")
        if not value.startswith("E"):  # a processor or a kernel that does without
            await stub.tell(f"P{register}={value}")
        processor = await stub.ask("qsThreadInfo")


async def _rearm_board(stub: "_Stub", memory: str, *, processors: int) -> None:
    if (timers := _BOARDS_TIMERS.search(memory)) is None:
        return
    await stub.tell("Qqemu.PhyMemMode:1")
    for number in range(processors):
        where = f"{int(timers[1], 16) + number * _TIMER_BYTES:x},{_TIMER_BYTES}"
        await stub.tell(f"M{where}:{await stub.ask(f'm{where}')}")


@asynccontextmanager
async def _stub(instance: Instance) -> "AsyncIterator[_Stub]":
    ours, qemus = socket.socketpair()
    with ours, qemus:
        await instance.qmp.give(qemus.fileno(), _STUB)
        line = {"type": "socket", "data": {"addr": {"type": "fd", "data": {"str": _STUB}}, "server": False}}
        await instance.qmp.command("chardev-add", {"id": _STUB, "backend": line})
        await _human(instance, f"gdbserver chardev:{_STUB}")
        reader, writer = await asyncio.open_connection(sock=ours.dup())
        try:
            yield _Stub(reader, writer)
        finally:
            writer.close()
            await _human(instance, "gdbserver none")


async def _human(instance: Instance, line: str) -> str:
    return str(await instance.qmp.command("human-monitor-command", {"command-line": line}))


class _Stub:
    """The conversation with it: ``$TEXT#SUM``, acknowledged by ``+``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, text: str) -> str:
        self._writer.write(f"${text}#{sum(text.encode()) % 256:02x}".encode())
        await self._reader.readuntil(b"$")
        answer = (await self._reader.readuntil(b"#"))[:-1]
        await self._reader.readexactly(2)
        self._writer.write(b"+")
        return answer.decode("latin-1")

    async def tell(self, text: str) -> None:
        if (answer := await self.ask(text)) != "OK":
            raise ValueError(f"QEMU answers {answer!r} to {text}")

    async def description(self, name: str) -> str:
        text, part = "", "m"
        while part.startswith("m"):  # the last one begins with l
            part = await self.ask(f"qXfer:features:read:{name}:{len(text):x},ffb")
            text += part[1:]
        return text
