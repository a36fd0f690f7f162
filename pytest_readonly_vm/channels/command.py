"""Owns a command for the guest, and the complaint about one that failed. Pure.

Channels run *scripts*: POSIX shell text, made here of what the user wrote. So an environment, a folder or another
user means the same over each channel.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from pytest_readonly_vm.command_result import CommandResult
from pytest_readonly_vm.errors import CommandFailed
from pytest_readonly_vm.printable import tail

_LONGEST_SHOWN = 200


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


def stream_notes(stdout: str | bytes, stderr: str | bytes) -> list[str]:
    """The ends of both streams, for an error."""
    return [_stream_note("stdout", stdout), _stream_note("stderr", stderr)]


def _stream_note(name: str, printed: str | bytes) -> str:
    if not (lines := tail(printed)):
        return f"{name} has nothing to be seen at its end" if printed else f"{name} was empty"
    ends = printed.rstrip().count(b"\n") if isinstance(printed, bytes) else printed.rstrip().count("\n")
    if ends >= len(lines):
        name = f"Last {len(lines)} of {ends + 1} lines of {name}"
    return "\n".join([f"{name}:", *lines])
