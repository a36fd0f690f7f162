"""Owns what a test does inside a guest: commands, files, waits. The blocking face of what runs on the loop."""

import os
import re
import shlex
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from pytest_readonly_vm.channels.choice import PATIENCE
from pytest_readonly_vm.channels.pattern import compiled
from pytest_readonly_vm.command_result import CommandResult
from pytest_readonly_vm.errors import CommandFailed, WaitTimeout
from pytest_readonly_vm.guest.commands import Commands
from pytest_readonly_vm.guest.files import Files, Progress
from pytest_readonly_vm.guest.journal import Journal
from pytest_readonly_vm.guest.units import Units
from pytest_readonly_vm.guest.waits import Waits
from pytest_readonly_vm.host.loop import LoopThread, within
from pytest_readonly_vm.qemu.instance import Instance

T = TypeVar("T")

_RESULTS_KEPT = 4

TRANSFER = 600.0
"""Seconds that a transfer may take unless told otherwise."""


class Guest:
    """The inside of a machine, over whatever channel it has.

    Each method looks for a channel if none has answered yet, for at most 60 seconds, which count. Beside what they say,
    all raise `ChannelError` when no channel answers, `ChannelLost` when the guest reboots or ends the channel,
    `GuestDied` when the guest panics, is reset, shuts down, or QEMU ends, and `GuestPaused` when it stands still: it
    was paused, is suspended, is in a debugger, its disk has failed. All that at once, and also if it was so before.
    """

    def __init__(self, instance: Instance, *, loop: LoopThread, progress: Progress) -> None:
        self.name = instance.name
        self.on_push: Callable[[str], object] = lambda local: None
        """Called with what is about to be pushed."""
        self.loop = loop
        self._progress = progress
        self.results: deque[CommandResult] = deque(maxlen=_RESULTS_KEPT)
        """The latest of `run` and `arun`, without most of long streams."""
        self._enter(instance)

    def _enter(self, instance: Instance) -> None:
        """From now on this is the machine whose inside it is."""
        self.instance = instance
        self._channels = instance.channels
        self._liveness = instance.qmp.liveness
        self._history = instance.qmp.history
        self.commands = Commands(instance.channels, self._liveness, self.name, slowness=instance.spec.slowness)
        self._files = Files(self.commands, instance, self._progress)
        self._waits = Waits(self.commands, self.name)
        self._units = Units(self.commands, self.name)
        self._journal = Journal(self.commands, self._units, instance)

    def _do(self, kind: str, what: str, work: Awaitable[T], timeout: float | None = None) -> T:
        """Have something done in the guest, unless the guest comes to its end meanwhile; an entry of the history."""

        def late() -> WaitTimeout:
            return WaitTimeout(f"{self.name}: not done within {timeout:g} s: {what}")

        with self._history.noting(kind, what):
            return self.loop.run(within(timeout, self._liveness.explained(self._liveness.race(work)), late))

    @property
    def channel(self) -> str | None:
        """Which channel is in use: ``agent``, ``shell``, ``ssh``, or None when none has answered so far."""
        found = self._channels.found
        return found.name if found else None

    # Commands.

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        timeout: float | None = None,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> CommandResult:
        """Run a command in the guest, as root in root's home folder unless told otherwise, and wait for its end.

        :param command: a text for the guest's ``sh``, or a program and its arguments.
        :param check: whether another exit code than 0 is an error.
        :param timeout: seconds that it may take, the search for a channel included, after which it is killed in the
            guest. That, and what it had printed, is waited for for another 2 s times `slowness`; a guest that has not
            answered by then is said not to have. By default as long as it takes, or the test's own timeout.
        :param input: what it reads from its standard input; nothing by default.
        :param env: environment variables in addition.
        :param cwd: folder to run in.
        :param user: run as this user, by ``su``.
        :raises CommandFailed: with `check`, its exit code is not 0; the notes have the ends of its output.
        :raises CommandTimeout: it took longer; the notes have what it had printed so far.
        """
        how = partial(self.commands.run, check=check, timeout=timeout, input=input, env=env, cwd=cwd, user=user)
        return self.loop.run(self._ran(command, how))

    async def arun(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        timeout: float | None = None,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> CommandResult:
        """As `run`, for async tests: asyncio, pytest-asyncio, anyio, trio. When it is cancelled, so is the command."""
        how = partial(self.commands.run, check=check, timeout=timeout, input=input, env=env, cwd=cwd, user=user)
        return await self.loop.run_from_elsewhere(self._ran(command, how))

    def ask(
        self, command: str | Sequence[str], *, timeout: float | None = None, input: str | bytes | None = None
    ) -> CommandResult:
        """As `run`, of what no test has asked for itself: nothing is told of it. No exit code is an error."""
        how = partial(self.commands.run, check=False, timeout=timeout, input=input)

        async def asked() -> CommandResult:
            self._liveness.check()
            return await self._liveness.explained(how(command))

        return self.loop.run(asked())

    async def _ran(
        self, command: str | Sequence[str], run: Callable[[str | Sequence[str]], Awaitable[CommandResult]]
    ) -> CommandResult:
        with self._history.noting("command", _shown(command)) as entry:
            self._liveness.check()
            try:
                result = await self._liveness.explained(run(command))
            except CommandFailed as failure:
                self.results.append(failure.result.without_most())
                raise
            self.results.append(result.without_most())
            entry.outcome = f"exit code {result.exit_code}" if result.exit_code else ""
        return result

    # Files.

    def push(
        self,
        local: str | os.PathLike[str],
        remote: str,
        *,
        mode: int | None = None,
        owner: str | None = None,
        parents: bool = False,
        timeout: float | None = TRANSFER,
    ) -> None:
        """Copy a file or a folder's contents into the guest; modes and times are kept.

        A folder is made, or what it has already is kept beside.

        :param mode: of a file, another than it has here.
        :param owner: ``user``, with that user's own group, or ``user:group``; names or numbers. By default root. Of a
            folder and all that is copied into it.
        :param parents: make the folders above it that are not there, the owner's as well. Otherwise they must be.
        :param timeout: seconds that it may take, checksums included; None for as long as it takes.
        :raises TransferError: it cannot be read here or written there, its checksum differs there, or there is no such
            user or group.
        :raises WaitTimeout: it took longer.
        """
        self.on_push(os.fspath(local))
        work = self._files.push(Path(local), remote, mode=mode, owner=owner, parents=parents)
        self._do("file", f"push {local} {remote}", work, timeout)

    def pull(self, remote: str, local: str | os.PathLike[str], *, timeout: float | None = TRANSFER) -> None:
        """Copy a file or a folder's contents out of the guest; modes (not set-user-ID) and times are kept.

        A file may go into a folder, under its own name. Holes of a file stay holes. Devices, pipes and sockets are left
        out. A file that is there is replaced, unless machines are made of it; nothing is written through a link.

        :param timeout: seconds that it may take, checksums included; None for as long as it takes.
        :raises TransferError: it cannot be read there or written here, or its checksum differs here.
        :raises WaitTimeout: it took longer.
        """
        self._do("file", f"pull {remote} {local}", self._files.pull(remote, Path(local)), timeout)

    def read_bytes(self, path: str, *, timeout: float | None = TRANSFER) -> bytes:
        """The content of a file in the guest.

        :param timeout: seconds that it may take.
        :raises TransferError: it cannot be read.
        """
        return self._do("file", f"read {path}", self._files.read(path), timeout)

    def read_text(self, path: str, *, timeout: float | None = TRANSFER) -> str:
        """As `read_bytes`, as UTF-8.

        :raises UnicodeDecodeError: it is none.
        """
        __tracebackhide__ = True
        return self.read_bytes(path, timeout=timeout).decode()

    def write_bytes(
        self,
        path: str,
        content: bytes,
        *,
        mode: int = 0o644,
        owner: str | None = None,
        parents: bool = False,
        timeout: float | None = TRANSFER,
    ) -> None:
        """Make or replace a file in the guest, as a whole: nobody there sees half of it.

        :param owner: as of `push`.
        :param parents: as of `push`.
        :param timeout: seconds that it may take.
        :raises TransferError: it cannot be written, or there is no such user or group.
        """
        work = self._files.write(path, content, mode=mode, owner=owner, parents=parents)
        self._do("file", f"write {path}", work, timeout)

    def write_text(
        self,
        path: str,
        text: str,
        *,
        mode: int = 0o644,
        owner: str | None = None,
        parents: bool = False,
        timeout: float | None = TRANSFER,
    ) -> None:
        """As `write_bytes`, as UTF-8."""
        __tracebackhide__ = True
        self.write_bytes(path, text.encode(), mode=mode, owner=owner, parents=parents, timeout=timeout)

    # Waits.

    def wait_until_succeeds(self, command: str | Sequence[str], timeout: float = 60.0) -> CommandResult:
        """Run a command again and again until its exit code is 0; return how it ended then.

        :param timeout: seconds.
        :raises WaitTimeout: it did not succeed in time; the notes have its last result.
        """
        return self._do("wait", f"success of {_shown(command)}", self._waits.until_succeeds(command, timeout))

    def wait_for_unit(self, unit: str, timeout: float = 60.0) -> None:
        """Wait until a systemd unit is active. What will not become true is told at once.

        :raises UnitFailed: it failed, is masked or cannot be loaded; the notes have its status and last lines.
        :raises UnitNotFound: there is none, though the guest has booted; the message has names like it. Not for mounts,
            swaps, devices and scopes, which may come of what a program does.
        :raises GuestLacks: the guest has no systemd.
        :raises WaitTimeout: it is not active in time; the notes have its state, status and last lines.
        """
        self._do("wait", f"unit {unit}", self._units.until_active(unit, timeout))

    def wait_for_port(self, port: int, timeout: float = 60.0) -> None:
        """Wait until somebody in the guest listens on a TCP port.

        :raises WaitTimeout: nobody does in time; the notes have the ports that have a listener.
        """
        self._do("wait", f"port {port}", self._waits.for_port(port, timeout))

    def wait_for_file(self, path: str, timeout: float = 60.0) -> None:
        """Wait until there is a file, folder or whatever at a path.

        :raises WaitTimeout: there is none in time; the notes have what its folder holds.
        """
        self._do("wait", f"file {path}", self._waits.for_file(path, timeout))

    def wait_for_log(
        self, pattern: str | re.Pattern[str], unit: str | None = None, timeout: float = 60.0
    ) -> re.Match[str]:
        """Wait for a line of the guest's journal in which a regular expression is found, and return the match.

        As `Console.expect`, it looks at what came since the guest was ready, or after the line that was found last:
        of this unit, or, without one, of all. A line is as `journal` shows it; `match.string` is the whole line.

        :raises UnitFailed: the unit has failed, is masked or cannot be loaded, and such a line has not come.
        :raises UnitNotFound: there is no such unit, and no line of it.
        :raises GuestLacks: the guest has no journal.
        :raises WaitTimeout: such a line has not come in time; the notes have the last lines.
        """
        __tracebackhide__ = True
        wanted = compiled(pattern)
        return self._do("wait", f"log {wanted.pattern}", self._journal.wait(wanted, unit, timeout))

    def journal(self, unit: str | None = None, *, since: str | None = None) -> str:
        """The text of the guest's journal since the guest was ready, as ``journalctl`` shows it, without a hostname.

        :param unit: only what is of this systemd unit.
        :param since: from when on: ``boot``, or what ``journalctl --since`` takes, such as ``-10s`` or ``today``.
        :raises UnitNotFound: there is no such unit, and no line of it.
        :raises GuestLacks: the guest has no journal.
        """
        return self._do("command", f"journal {unit or ''}".rstrip(), self._journal.text(unit, since), PATIENCE)

    def boot_id(self) -> str:
        """What the guest's kernel calls this boot; another after each reboot."""
        return self._do("command", "boot id", self._waits.boot_id(), PATIENCE)

    def wait_for_boot(self, before: str, timeout: float = 300.0) -> None:
        """Wait until the guest has booted anew and a channel answers.

        :param before: what `boot_id` was.
        :raises WaitTimeout: it has not in time.
        """
        with self._liveness.expecting_reset(), self._history.noting("wait", "boot"):
            self.loop.run(self._booted(before, timeout))

    async def _booted(self, before: str, timeout: float) -> None:
        if not self._liveness.has_ended:  # as one is that boots anew
            self._liveness.check()
        await self._liveness.race(self._waits.for_boot(before, timeout), anew=True)


def _shown(command: str | Sequence[str]) -> str:
    return command if isinstance(command, str) else shlex.join(command)
