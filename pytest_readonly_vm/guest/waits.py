"""Owns the waits for something to come true in a guest: each with a deadline, each failing with what it last saw."""

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from pytest_readonly_vm.command_result import CommandResult
from pytest_readonly_vm.errors import ChannelError, WaitTimeout
from pytest_readonly_vm.guest.commands import Commands, shortened, stream_notes

T = TypeVar("T")

_FIRST_POLL = 0.02
_LONGEST_POLL = 0.5
_LISTENS = "0A"  # the state TCP_LISTEN in /proc/net/tcp, see proc(5)
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Waits:
    """Waits for things in one machine; for the loop. Durations are seconds."""

    def __init__(self, commands: Commands, name: str) -> None:
        self._commands = commands
        self._name = name

    async def until_succeeds(self, command: str | Sequence[str], timeout: float) -> CommandResult:
        """As `VirtualMachine.wait_until_succeeds`."""
        seen: list[CommandResult] = []

        async def attempt() -> CommandResult | None:
            seen[:] = [await self._commands.run(command, check=False)]
            return seen[0] if seen[0].exit_code == 0 else None

        def last() -> list[str]:
            if not seen:
                return []
            first, *others = stream_notes(seen[0].stdout, seen[0].stderr)
            return [f"exit code {seen[0].exit_code}; {first}", *others]

        shown = shortened(command if isinstance(command, str) else shlex.join(command))
        return await until(self._name, attempt, f"the success of: {shown}", timeout, last)

    async def for_port(self, port: int, timeout: float) -> None:
        """As `VirtualMachine.wait_for_port`."""
        listening: set[int] = set()

        async def attempt() -> bool:
            table = await self._commands.run("cat /proc/net/tcp /proc/net/tcp6 2>/dev/null", check=False)
            rows = [line.split() for line in table.stdout.splitlines()]
            listening.clear()
            listening.update(int(row[1].rpartition(":")[2], 16) for row in rows if len(row) > 3 and row[3] == _LISTENS)
            return port in listening

        def last() -> list[str]:
            return [f"TCP ports with a listener: {', '.join(map(str, sorted(listening))) or 'none'}"]

        await until(self._name, attempt, f"a listener on TCP port {port}", timeout, last)

    async def for_file(self, path: str, timeout: float) -> None:
        """As `VirtualMachine.wait_for_file`."""
        folder = path.rpartition("/")[0] or "/"
        seen = [""]

        async def attempt() -> bool:
            script = f"[ -e {shlex.quote(path)} ] || {{ ls -A -- {shlex.quote(folder)} 2>&1 | head -n 50; exit 1; }}"
            result = await self._commands.run(script, check=False)
            seen[0] = result.stdout
            return result.exit_code == 0

        await until(
            self._name,
            attempt,
            f"{path} to exist",
            timeout,
            lambda: [f"{folder} has {', '.join(seen[0].splitlines()) or 'nothing'}"],
        )

    async def for_boot(self, before: str, timeout: float) -> str:
        """Wait until the guest's boot id is another than `before`, and return it."""
        seen = ["no channel has answered since"]

        async def attempt() -> str | None:
            try:
                found = (await self._commands.run(["cat", _BOOT_ID], timeout=10)).stdout.strip()
            except (ChannelError, WaitTimeout) as error:
                seen[0] = str(error)
                return None
            seen[0] = f"the boot id is still {found}"
            return found if found != before else None

        return await until(self._name, attempt, "the guest to boot anew", timeout, lambda: seen)

    async def boot_id(self) -> str:
        """As `VirtualMachine.boot_id`."""
        return (await self._commands.run(["cat", _BOOT_ID])).stdout.strip()


async def until(
    name: str, attempt: Callable[[], Awaitable[T | None]], what: str, timeout: float, last: Callable[[], list[str]]
) -> T:
    """Try until it gives something true: at once, and then ever less often. `name` is the machine's.

    :raises WaitTimeout: it has not in time; the notes have what `last` says then.
    """
    clock = asyncio.get_running_loop().time
    started = clock()
    has_answered = False
    try:
        async with asyncio.timeout(timeout):
            while not (found := await attempt()):
                has_answered = True
                await asyncio.sleep(max(_FIRST_POLL, min((clock() - started) / 8, _LONGEST_POLL)))
            return found
    except TimeoutError as expired:
        if isinstance(expired, WaitTimeout):
            raise
        error = WaitTimeout(f"{name}: waited {timeout:g} s for {what}")
        for note in last() if has_answered else ["nothing, as the guest did not answer"]:
            error.add_note(f"Last seen: {note}")
        raise error from None
