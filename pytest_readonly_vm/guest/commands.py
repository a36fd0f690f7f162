"""Owns the running of commands in a guest, over whatever channel the machine has, and what is said of one that failed.

Channels run *scripts*: POSIX shell text, made here of what the user wrote. So an environment, a folder or another
user means the same over each channel.
"""

import asyncio
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from pytest_readonly_vm.channels.choice import PATIENCE, ChannelChoice
from pytest_readonly_vm.channels.liveness import Liveness
from pytest_readonly_vm.command_result import CommandResult
from pytest_readonly_vm.errors import ChannelLost, CommandFailed, CommandTimeout
from pytest_readonly_vm.host.loop import leave
from pytest_readonly_vm.printable import tail

_LONGEST_SHOWN = 200

_LAST_WORDS = 2.0
"""Seconds that a fast guest has, when a command's time is up, to kill it and to tell what it had printed."""

_MOST_WORDS = 3
"""How often it has these, if it tells more each time: an emulated one that is busy is slow, and not silent."""

_KILLED = "was killed"
_NOT_KILLED = "the guest did not answer the request to kill it"


@dataclass(frozen=True, slots=True)
class Command:
    """What is to be run in the guest. A text is for the guest's shell; a sequence is a program and its arguments."""

    what: str | Sequence[str]
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    cwd: str | None = None
    user: str | None = None

    def __str__(self) -> str:
        return self.what if isinstance(self.what, str) else shlex.join(self.what)

    def script(self) -> bytes:
        """POSIX shell text that runs it, in the user's home folder unless `cwd` says another.

        Texts are encoded as file names are, so bytes that are no UTF-8 arrive as they were.
        """
        # What a login would set and a service manager or an init may not have.
        lines = [": ${PATH:=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}; export PATH"]
        if self.user is None:
            lines += [
                ": ${HOME:=/root} ${USER:=root} ${LOGNAME:=root} ${SHELL:=/bin/sh}; export HOME USER LOGNAME SHELL"
            ]
            lines += self._inner()
        else:
            inner = "\n".join(self._inner())
            lines.append(f"exec su -s /bin/sh -c {shlex.quote(inner)} -- {shlex.quote(self.user)}")
        return "\n".join(lines).encode("utf-8", "surrogateescape")

    def _inner(self) -> list[str]:
        folder = f"cd -- {shlex.quote(self.cwd)} || exit" if self.cwd is not None else "cd 2>/dev/null || cd /"
        exports = [f"export {name}={shlex.quote(value)}" for name, value in self.env.items()]
        if isinstance(self.what, str):
            # The shell that runs this text may have been forked off a channel's own, which "$$" would still name.
            how = "exec /bin/sh -c" if "$$" in self.what else "eval"
            return [folder, *exports, f"{how} {shlex.quote(self.what)}"]
        return [folder, *exports, f"exec {shlex.join(self.what)}"]


class Commands:
    """Runs commands in one machine; for the loop."""

    def __init__(self, channels: ChannelChoice, liveness: Liveness, name: str, *, slowness: float) -> None:
        self._channels = channels
        self._liveness = liveness
        self._name = name
        self._last_words = _LAST_WORDS * slowness

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
                    await self._liveness.wait(work, self._last_words)
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


def checked(result: CommandResult, vm: str) -> CommandResult:
    """Return the result of a command in the machine called `vm`.

    :raises CommandFailed: the exit code is not 0.
    """
    if result.exit_code == 0:
        return result
    failure = CommandFailed(f"{vm}: exit code {result.exit_code} from: {shortened(result.command)}", result)
    for note in stream_notes(result.stdout_bytes, result.stderr_bytes):
        failure.add_note(note)
    raise failure


def shortened(command: str) -> str:
    """A command for a headline: one line, in bounds."""
    line = " ".join(command.split())
    return line if len(line) <= _LONGEST_SHOWN else f"{line[:_LONGEST_SHOWN]}…"


def stream_notes(stdout: str | bytes, stderr: str | bytes, *, most: int | None = None) -> list[str]:
    """The ends of both streams, for an error; first the one in which programs say why.

    :param most: of a stream as long as this the beginning may be missing, so that nobody knows how many lines it had.
    """
    if not stdout and not stderr:
        return ["It printed nothing."]
    streams = {"stderr": stderr, "stdout": stdout}
    return [_stream_note(name, data, is_whole=len(data) != most) for name, data in streams.items() if data]


def _stream_note(name: str, printed: str | bytes, *, is_whole: bool) -> str:
    if not (lines := tail(printed)):
        return f"{name} has nothing to be seen at its end"
    if len(lines) == 1:
        return f"{name}: {lines[0]}"
    ends = printed.rstrip().count(b"\n") if isinstance(printed, bytes) else printed.rstrip().count("\n")
    if ends >= len(lines):
        name = f"Last {len(lines)}{f' of {ends + 1}' if is_whole else ''} lines of {name}"
    return "\n".join([f"{name}:", *lines])
