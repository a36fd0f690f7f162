"""Owns what is read of the journal of a guest with systemd: its text, and the wait for a line of it."""

import asyncio
import re
import shlex
import time
from collections import deque
from dataclasses import dataclass

from pytest_readonly_vm.command_result import CommandResult
from pytest_readonly_vm.errors import GuestLacks, VmError, WaitTimeout
from pytest_readonly_vm.guest.commands import Commands
from pytest_readonly_vm.guest.units import Units, failure
from pytest_readonly_vm.qemu.instance import Instance

_SHOWN = 20
"""Lines, with an error."""

_CURSOR = "-- cursor: "
_NO_JOURNAL = 90
"""The exit status that means that the guest has none."""

_HEAD = f"[ -d /run/systemd/journal ] && command -v journalctl >/dev/null || exit {_NO_JOURNAL}\n"
_READ = "journalctl --quiet --no-pager --no-hostname --output=short-precise"
_SYNC = "journalctl --sync 2>/dev/null\n"

_OURS = ("*' qemu-ga['*'info: guest-'*", "*'Received client request to sync journal'*")
"""Patterns of a shell for what we leave in the journal by asking: a Debian's agent notes each of its requests."""
_OURS_HERE = re.compile(r" qemu-ga\[\d+\]: info: guest-|\]: Received client request to sync journal")

# Ends with the first line that comes. Who follows would notice only with the next one that nobody reads any more.
_FOLLOW = f"""\
{{{{ {_READ} --follow --no-tail {{what}} & echo $!; wait; }}}} | {{{{
    read -r follower
    while IFS= read -r line; do
        case $line in {_OURS[0]} | {_OURS[1]}) ;; *) came=1 && break ;; esac
    done
    kill "$follower"
    [ "$came" ] || {{{{ echo "journalctl, which should follow it, has ended" >&2; exit 1; }}}}
}}}}
"""


@dataclass(frozen=True, slots=True)
class _Place:
    """How far the journal, or that of one unit, has been read by waits that have found something."""

    where: str
    """Where it goes on, for `journalctl`."""
    unread: tuple[str, ...] = ()
    """Lines before that which are behind what was found."""


class Journal:
    """The journal of one machine; for the loop."""

    def __init__(self, commands: Commands, units: Units, instance: Instance) -> None:
        self._commands = commands
        self._units = units
        self._instance = instance
        self._name = instance.name
        self._ready = ""
        self._places: dict[str | None, _Place] = {}

    async def text(self, unit: str | None, since: str | None) -> str:
        """As `VirtualMachine.journal`."""
        if since is None:
            where = await self._since_ready()
        else:
            where = "--boot" if since == "boot" else f"--since={shlex.quote(since)}"
        said = await self._asked(f"{_SYNC}{_READ} {_what(where, unit)}")
        found = "".join(f"{line}\n" for line in _lines(said.stdout))
        if unit is not None and not found:
            state = await self._units.state(unit)
            if state["Id"] not in (unit, f"{unit}.service"):
                return await self.text(state["Id"], since)  # as the journal knows no alias
            await self._units.refuse_missing(unit, state)
        return found

    async def wait(self, pattern: re.Pattern[str], unit: str | None, timeout: float) -> re.Match[str]:
        """As `VirtualMachine.wait_for_log`."""
        seen: deque[str] = deque(maxlen=_SHOWN)
        of_whom = f" of the unit {unit}" if unit is not None else ""
        try:
            async with asyncio.timeout(timeout):
                place = self._places.get(unit) or _Place(await self._since_ready())
                return await self._found(pattern, unit, place, seen)
        except TimeoutError as expired:
            if isinstance(expired, WaitTimeout):
                raise
            late = WaitTimeout(
                f"{self._name}: the journal{of_whom} did not show {pattern.pattern!r} within {timeout:g} s"
            )
            since = "after the line that was found last" if unit in self._places else "since the guest was ready"
            lines = "\n".join(seen) or "none, or the guest did not answer"
            late.add_note(f"Its last lines {since}:\n{lines}")
            raise late from None

    async def _found(
        self, pattern: re.Pattern[str], unit: str | None, place: _Place, seen: deque[str]
    ) -> re.Match[str]:
        where, lines = place.where, place.unread
        while True:
            state = await self._units.state(unit) if unit is not None else {}
            why = failure(state)  # asked before it is read, so that what it had logged by then is there
            known_as = state.get("Id", unit)  # the journal knows no alias
            where, news = await self._read(where, known_as, sync=bool(why))
            lines = (*lines, *news)
            for number, line in enumerate(lines):
                if match := pattern.search(line):
                    self._places[unit] = _Place(where, lines[number + 1 :])
                    return match
            seen.extend(lines)
            if unit is not None and why:
                raise await self._units.failed(unit, why, f"it has not logged {pattern.pattern!r}")
            if unit is not None and not seen:
                await self._units.refuse_missing(unit, state)
            lines = ()
            if unit is None or not news:  # which may tell of an end that has come since its state was asked for
                await self._asked(_FOLLOW.format(what=_what(where, known_as)))

    async def _read(self, where: str, unit: str | None, *, sync: bool) -> tuple[str, list[str]]:
        """Where it goes on next time, and the lines up to there."""
        said = await self._asked(f"{_SYNC if sync else ''}{_READ} --show-cursor {_what(where, unit)}")
        lines = _lines(said.stdout)
        if lines and lines[-1].startswith(_CURSOR):
            where = f"--after-cursor={shlex.quote(lines.pop().removeprefix(_CURSOR))}"
        return where, lines

    async def _since_ready(self) -> str:
        """For `journalctl`: since the guest was ready, by its own clock; rather earlier than later."""
        if not self._ready:
            said = await self._commands.run("date +%s.%N")
            now = re.match(r"\d+(\.\d+)?", said.stdout)
            if now is None:
                raise VmError(f"{self._name}: the guest does not know the time: {said.stdout!r:.80}")
            age = time.monotonic() - self._instance.started - self._instance.ready_after
            self._ready = f"--since=@{float(now[0]) - age:.3f}"
        return self._ready

    async def _asked(self, script: str) -> CommandResult:
        said = await self._commands.run(_HEAD + script, check=False)
        if said.exit_code == _NO_JOURNAL:
            raise GuestLacks(
                f"{self._name}: the guest has no journal, as systemd-journald does not run in it; "
                "wait_until_succeeds('grep ...') waits for a line of a file"
            )
        if said.exit_code and (complaint := said.stderr.strip()):  # without a word, there is just no such line
            raise VmError(f"{self._name}: the journal cannot be read: {complaint.splitlines()[-1]}")
        return said


def _lines(text: str) -> list[str]:
    """The lines that somebody else is the reason of."""
    return [line for line in text.split("\n")[:-1] if not _OURS_HERE.search(line)]


def _what(where: str, unit: str | None) -> str:
    return f"{where} --unit={shlex.quote(unit)}" if unit is not None else where
