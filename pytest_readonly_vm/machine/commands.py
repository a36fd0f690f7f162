"""Owns the running of commands in a guest, over whatever channel the machine has."""

import asyncio
import time
from collections.abc import Mapping, Sequence

from pytest_readonly_vm.channels.command import Command, CommandResult, shortened, stream_notes
from pytest_readonly_vm.errors import ChannelLost, CommandTimeout
from pytest_readonly_vm.machine.access import Access


class Commands:
    """Runs commands in one machine; for the loop."""

    def __init__(self, access: Access, name: str) -> None:
        self._access = access
        self._name = name

    async def run(
        self,
        what: str | Sequence[str],
        *,
        check: bool = True,
        timeout: float | None = None,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> CommandResult:
        """As `VirtualMachine.run`."""
        command = Command(what, env or {}, cwd, user)
        script = command.script()
        data = input.encode() if isinstance(input, str) else input or b""
        stdout, stderr = bytearray(), bytearray()
        channel = await self._access.channel()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(timeout):
                code = await channel.execute(script, input=data, stdout=stdout.extend, stderr=stderr.extend)
        except TimeoutError:
            text = [stream.decode(errors="replace") for stream in (stdout, stderr)]
            error = CommandTimeout(
                f"{self._name}: the command did not end within {timeout:g} s and was killed: {shortened(str(command))}",
                stdout=text[0],
                stderr=text[1],
            )
            for note in stream_notes(*text):
                error.add_note(note)
            raise error from None
        except ChannelLost as lost:
            self._access.lose()
            lost.add_note(f"It was running: {shortened(str(command))}")
            raise
        result = CommandResult(str(command), code, bytes(stdout), bytes(stderr), time.perf_counter() - started)
        return result.check(self._name) if check else result
