"""Owns the running of commands in a guest, over whatever channel the machine has."""

import asyncio
import time
from collections.abc import Mapping, Sequence

from pytest_readonly_vm.channels.choice import PATIENCE, ChannelChoice
from pytest_readonly_vm.channels.command import Command, checked, shortened, stream_notes
from pytest_readonly_vm.channels.liveness import Liveness
from pytest_readonly_vm.command_result import CommandResult
from pytest_readonly_vm.errors import ChannelLost, CommandTimeout
from pytest_readonly_vm.host.interruption import leave

_LAST_WORDS = 2.0
"""Seconds that the guest has, when a command's time is up, to kill it and to tell what it had printed."""

_MOST_WORDS = 3
"""How often it has these, if it tells more each time: an emulated one that is busy is slow, and not silent."""

_KILLED = "was killed"
_NOT_KILLED = "the guest did not answer the request to kill it"


class Commands:
    """Runs commands in one machine; for the loop."""

    def __init__(self, channels: ChannelChoice, liveness: Liveness, name: str) -> None:
        self._channels = channels
        self._liveness = liveness
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
        """As `VirtualMachine.run`, but it does not matter what has stopped the guest before, if QEMU lives."""
        command = Command(what, env or {}, cwd, user)
        script = command.script()
        data = input.encode() if isinstance(input, str) else input or b""
        stdout, stderr = bytearray(), bytearray()
        began = time.perf_counter()
        if (channel := self._channels.found) is None:
            patience = PATIENCE if timeout is None else min(timeout, PATIENCE)
            channel = await self._liveness.race(self._channels.channel(patience), anew=True)
        started = time.perf_counter()
        work = asyncio.ensure_future(channel.execute(script, input=data, stdout=stdout.extend, stderr=stderr.extend))
        try:
            left = None if timeout is None else max(timeout - (started - began), 0.0)
            await self._liveness.wait(work, left)
            if not work.done():
                work.cancel()
                for _ in range(_MOST_WORDS):
                    told = len(stdout) + len(stderr)
                    await self._liveness.wait(work, _LAST_WORDS)
                    if work.done() or told == len(stdout) + len(stderr):
                        break
                outcome = _KILLED if work.done() and channel.is_open() else _NOT_KILLED
                raise self._late(command, timeout, outcome, stdout, stderr)
            code = work.result()
        except ChannelLost as lost:
            self._channels.lose()
            lost.add_note(f"It was running: {shortened(str(command))}")
            raise
        finally:
            leave(work)
        result = CommandResult(str(command), code, bytes(stdout), bytes(stderr), time.perf_counter() - started)
        return checked(result, self._name) if check else result

    def _late(
        self, command: Command, timeout: float | None, outcome: str, stdout: bytearray, stderr: bytearray
    ) -> CommandTimeout:
        text = [stream.decode(errors="replace") for stream in (stdout, stderr)]
        error = CommandTimeout(
            f"{self._name}: the command did not end within {timeout:g} s and {outcome}: {shortened(str(command))}",
            stdout=text[0],
            stderr=text[1],
        )
        for note in stream_notes(*text):
            error.add_note(note)
        return error
