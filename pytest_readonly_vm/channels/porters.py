"""Owns the resident shells on one `ssh` connection: which of them takes a script, and the end of a cancelled one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from pytest_readonly_vm.channels.channel import Sink
from pytest_readonly_vm.channels.porter import Porter, Retired, Vanished
from pytest_readonly_vm.channels.ssh_mux import Refused

_AT_ONCE = 8  # sshd allows ten sessions on a connection (MaxSessions); to kill a script takes another one
_MOST = 9
_PATIENCE_WITH_THE_DYING = 10.0
_PATIENCE_WITH_LAST_WORDS = 2.0

# What a script has started: the children of its shell, theirs, and whatever is in a session that one of them leads.
# All are stopped before the first is killed, as the children of the dead are nobody's.
_KILL = r"""
s=' %d ' n=
while [ "$n" != "$s" ]; do
    n=$s
    for f in /proc/[0-9]*/stat; do
        read -r l <"$f" || continue
        p=${f#/proc/} p=${p%%/stat}
        set -- ${l##*) }
        case $s in
        *" $p "*) ;;
        *" $2 "* | *" $4 "*) kill -STOP "$p"; s="$s$p " ;;
        esac
    done
done 2>/dev/null
kill -KILL $s
"""


class Porters:
    """All porters of one connection, whose `ssh` listens at `control`. For the loop."""

    def __init__(self, control: Path) -> None:
        self._control = control
        self._all: list[Porter] = []
        self._idle: list[Porter] = []
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._opening = asyncio.Lock()
        self.are_open = False
        """Whether one has run a script, and they have not been dropped."""

    async def run(self, script: bytes, content: AsyncIterator[bytes] | None, stdout: Sink, stderr: Sink) -> int:
        """Run a script with an input, if any; more than eight at once wait for each other.

        Cancelled, it kills the script and all that it started.

        :raises Vanished: the connection is lost, or the script's shell was killed.
        """
        async with self._turn:
            while True:
                porter = await self._porter()
                try:
                    status = await porter.run(script, content, stdout, stderr)
                except Retired:
                    if not porter.pid:
                        raise Vanished("no commands are run over it (is the login shell of this user one?)") from None
                    continue
                except asyncio.CancelledError:
                    await self._kill(porter)
                    raise
                self.are_open = True
                if not porter.retired:
                    self._idle.append(porter)
                return status

    async def _porter(self) -> Porter:
        while self._idle:
            if not (porter := self._idle.pop()).retired:
                return porter
        async with self._opening:
            self._all = [porter for porter in self._all if not porter.gone.is_set()]
            # Those whose streams somebody in the background has, the oldest first.
            free = [porter for porter in self._all if not porter.is_busy]
            for porter in free[: max(0, len(self._all) - _MOST + 1)]:
                porter.drop()
            porter = await self._opened()
            self._all.append(porter)
        return porter

    async def _opened(self) -> Porter:
        try:
            return await Porter.open(self._control)
        except (Refused, ConnectionError) as error:
            raise Vanished(str(error)) from error

    async def _kill(self, porter: Porter) -> None:
        with contextlib.suppress(TimeoutError, Vanished, Retired):
            async with asyncio.timeout(_PATIENCE_WITH_THE_DYING):
                if await porter.begun() and not porter.gone.is_set():
                    killer = await self._opened()
                    try:
                        await killer.run(_KILL.encode() % porter.pid, None, bytes, bytes)
                    finally:
                        killer.drop()
            async with asyncio.timeout(_PATIENCE_WITH_LAST_WORDS):
                await porter.gone.wait()
        porter.drop()

    def drop(self) -> None:
        """Let go of all; what still runs ends with `Vanished`."""
        self.are_open = False
        for porter in self._all:
            porter.drop()
