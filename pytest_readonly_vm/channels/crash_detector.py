"""Owns the watch over a guest's life: what of QEMU's events and of the console's text means that it does not go on.

The events: https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html (``GUEST_PANICKED``, ``BLOCK_IO_ERROR``,
``SHUTDOWN``, ``RESET``, ``STOP``, ``SUSPEND``).
"""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from pytest_readonly_vm.channels.console import Console
from pytest_readonly_vm.channels.panic import Belief, PanicWatch
from pytest_readonly_vm.channels.qmp import Qmp, QmpEvent
from pytest_readonly_vm.channels.run_state import is_trouble, standstill
from pytest_readonly_vm.errors import (
    GuestDied,
    GuestPanicked,
    GuestPaused,
    GuestReset,
    GuestShutDown,
    QemuDied,
    VmError,
)
from pytest_readonly_vm.host.process import Process

_ORDERLY = re.compile(r"reboot: |Rebooting|Requesting system reboot|The system will reboot|syncing disks")
"""Words that a guest says when it reboots as somebody told it to."""

_SELF_TEST = 0.02
"""Seconds that a PC's firmware takes at least from a reset to what a guest says: 40 ms were measured with TCG."""

_FIRMWARES_RESET = 0.25
"""Seconds within which a PC's firmware asks for a reset of its own: 15 to 50 ms after the last, on a busy computer."""

_TRACE = 0.2
"""Seconds of silence after which a kernel that panics has said where it was, unless it tells sooner that it has."""

_LONGEST_TRACE = 2.0
"""Seconds in which a kernel that panics has said what follows its first line, or falls silent."""

_LAST_ANSWER = {Belief.PLAUSIBLE: 3.0, Belief.PROVEN: 0.75}
"""Seconds that a guest has to show that it lives, by how much speaks against it."""

_FULL = 16
"""MiB: where less is free, there may be no room for what a guest wants to write at once."""

_LOOKED_BACK = 8192
"""Characters of the console's latest text in which a guest may have said that it reboots."""

_MONITOR_PATIENCE = 5.0


class CrashDetector:
    """Hears of everything that one machine reports, and tells its liveness. For the loop."""

    def __init__(
        self,
        process: Process,
        qmp: Qmp,
        console: Console,
        *,
        folder: Path,
        name: str,
        answers: Callable[[float], Awaitable[bool | None]],
        panic_patterns: Sequence[str] = (),
    ) -> None:
        """`folder` is where the guest's writes go; `panic_patterns` mean a panic beside those that are known.

        :param answers: whether the guest answers within so many seconds; None if it has nothing to answer by.
        """
        self._process = process
        self._qmp = qmp
        self._console = console
        self._folder = folder
        self._name = name
        self._answers = answers
        self._panics = PanicWatch(panic_patterns)
        self._recent = ""
        self._heard = 0.0
        self._said_more = asyncio.Event()
        self._panic_said: str | None = None
        self._judging: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._changes = 0
        self._state = ""
        self._io_error = self._fault = ""
        self._is_silent_since_reset = False
        self._last_reset = 0.0
        self._shutdown: QmpEvent | None = None
        qmp.listeners.append(self._hear)
        qmp.liveness.look = self._look
        console.listeners.append(self._read)
        process.coroner = self._cause_of_death

    def _hear(self, event: QmpEvent) -> None:
        # Not as a mapping of functions: what an event means is best read where it is told.
        liveness, data = self._qmp.liveness, event.data
        if event.name == "GUEST_PANICKED" and data.get("action") != "run":  # which somebody has asked for
            self._console.catch_up()  # the kernel says it on its console first
            self._die_of_panic()
        elif event.name == "BLOCK_IO_ERROR" and data.get("action") == "stop":
            liveness.halts += 1
            self._fault = next(filter(None, (fault(data) for fault in liveness.faults)), "")
            self._io_error = self._sentence_of(event)
            self._stand_still("io-error")
        elif event.name in ("STOP", "SUSPEND"):
            liveness.halts += 1
            self._look()
        elif event.name in ("RESUME", "WAKEUP"):
            self._changes += 1
            self._state = self._io_error = self._fault = ""
            liveness.go_on()
        elif event.name == "SHUTDOWN":
            self._shutdown = event
        elif event.name == "RESET":
            self._console.catch_up()
            is_orderly = liveness.expects_reset or _ORDERLY.search(self._recent)
            by_guest = bool(data.get("guest"))
            least = (Belief.PLAUSIBLE if is_orderly else Belief.DOUBTFUL) if by_guest else Belief.PROVEN
            if self._is_believed(least):
                self._die_of_panic()
            had_ended = liveness.cause is not None
            liveness.begin_anew()
            if by_guest and not self._is_firmwares(event) and not had_ended and not is_orderly:
                sentence = _RESET.format(name=self._name)
                self._qmp.history.note("death", sentence)
                liveness.report_end(self._evident(GuestReset, sentence), passing=True)
            self._recent, self._is_silent_since_reset, self._panic_said = "", True, None
            self._last_reset = event.time
            self._acquit()
            self._panics.begin_anew()
            if had_ended:  # by which it may stand still, and does so until somebody lets it go on
                self._state = ""
                self._look()

    def _is_firmwares(self, reset: QmpEvent) -> bool:
        """Whether it is the firmware that asked: one that finds itself run before does, before anything is said.

        Events and console come on two sockets. Where the event is read late, what the guest has said by then may be of
        the time after, and only QEMU's clock tells.
        """
        is_read_late = time.time() - reset.time > _SELF_TEST
        return self._is_silent_since_reset or (is_read_late and reset.time - self._last_reset < _FIRMWARES_RESET)

    # A guest that stands still.

    def _look(self) -> None:
        """See whether it runs."""
        self._changes += 1
        self._looking = asyncio.ensure_future(self._see(self._changes))

    async def _see(self, change: int) -> None:
        with contextlib.suppress(VmError):  # of QEMU's end, or the monitor's, others tell
            status = await self._qmp.command("query-status", timeout=_MONITOR_PATIENCE)
            if not status["running"] and change == self._changes:
                self._stand_still(str(status["status"]))

    def _stand_still(self, state: str) -> None:
        if state == self._state:
            return
        self._state = state
        words = self._io_error if state == "io-error" and self._io_error else standstill(state)
        sentence = f"{self._name}: {words}"
        is_meant = state == "io-error" and bool(self._fault)
        if is_trouble(state) and not is_meant and not self._qmp.liveness.has_ended:
            self._qmp.history.note("death", sentence)
        cause = self._evident(lambda text: GuestPaused(text, state=state), sentence)
        self._qmp.liveness.stand_still(cause, is_trouble=is_trouble(state) and not is_meant)

    # A guest that panics.

    def _read(self, text: str) -> None:
        self._is_silent_since_reset = False
        self._recent = (self._recent + text)[-_LOOKED_BACK:]
        if self._panics.read(text):
            self._said_more.set()
            if self._judging is None and self._panic_said is None:
                self._judging = asyncio.ensure_future(self._judge())
        if self._judging is not None:
            self._heard = asyncio.get_running_loop().time()

    def _is_believed(self, least: Belief) -> bool:
        """Whether it has panicked, by what the console has shown, if nobody can be asked any more."""
        found = self._panics.suspicion
        return self._panic_said is not None or (found is not None and found.belief >= least)

    async def _judge(self) -> None:
        """Find out whether words of a panic are the kernel's: wait for what follows, then ask whether the guest lives.

        What runs in a guest can print all that a kernel prints; what it cannot do is to keep the guest from answering.
        """
        clock = asyncio.get_running_loop().time
        while True:
            self._said_more.clear()
            is_talking = await self._has_said_all(clock() + _LONGEST_TRACE)
            found = self._panics.suspicion
            if found is None or found.belief is Belief.DOUBTFUL:
                break
            if found.belief is not Belief.CERTAIN:
                while self._qmp.liveness.stands_still:
                    await asyncio.sleep(_TRACE)
                lives = await self._answers(_LAST_ANSWER[found.belief])
                if self._qmp.liveness.stands_still or (lives and self._said_more.is_set()):
                    continue  # since it was asked
                if lives or (lives is None and (is_talking or self._panics.is_asked_for_input())):
                    break
            self._judging = None
            self._die_of_panic()
            return
        self._acquit()

    async def _has_said_all(self, deadline: float) -> bool:
        """Wait until a kernel would have said all that belongs to its panic; whether the guest talks on."""
        clock = asyncio.get_running_loop().time
        while (found := self._panics.suspicion) is not None and not found.is_over:
            silent_at = deadline if found.belief is Belief.DOUBTFUL else min(deadline, self._heard + _TRACE)
            if (left := silent_at - clock()) <= 0:
                return silent_at == deadline
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._said_more.wait()
                    self._said_more.clear()
        return False

    def _acquit(self) -> None:
        """Forget what the console has shown of a panic."""
        self._panics.suspicion = None
        if self._judging is not None:
            if self._judging is not asyncio.current_task():
                self._judging.cancel()
            self._judging = None

    def _die_of_panic(self) -> None:
        found = self._panics.suspicion
        self._acquit()
        if self._panic_said is None:
            self._panic_said = found.words if found is not None else ""
        said = self._panic_said
        if not self._qmp.liveness.has_ended:
            sentence = _PANICKED.format(name=self._name, why=said or "it did not say why")
            self._qmp.history.note("death", sentence)
            self._qmp.liveness.report_end(self._evident(lambda text: GuestPanicked(text, panic=said), sentence))

    # The end.

    def _evident(self, kind: Callable[[str], VmError], sentence: str) -> Callable[[], VmError]:
        return lambda: self._process.with_evidence(kind(sentence))

    def _sentence_of(self, event: QmpEvent) -> str:
        data = event.data
        disk = data.get("device") or data.get("node-name") or "a disk"
        verb = {"read": "read", "write": "written"}.get(str(data.get("operation")), "used")
        sentence = f"QEMU has paused the guest: {disk} cannot be {verb}"
        system = os.statvfs(self._folder)
        free = system.f_bavail * system.f_frsize >> 20
        where = f"the guest's writes go to {self._folder}, where {free} MiB are free"
        if self._fault:
            sentence += f", by the fault {self._fault} of this test, and goes on when that ends"
            sentence += f" ({where}, which may be it as well)" if free < _FULL else ""
            return sentence
        sentence += f": {data.get('reason') or 'I/O error'}"
        if data.get("nospace"):
            elsewhere = "so it is not that: another disk, a quota, an error that a test has made by QEMU's monitor"
            cause = "see the setting tmpdir" if free < _FULL else elsewhere
            sentence += f" ({where}; {cause})"
        return sentence

    def _cause_of_death(self, ending: str) -> GuestDied:
        """The error of whoever waited when QEMU ended; `ending` is the sentence that says how."""
        because = self._shutdown.data if self._shutdown else {}
        reason = str(because.get("reason", ""))
        verdict = ending.removeprefix(f"{self._name}: ")
        if self._is_believed(Belief.PLAUSIBLE):
            found = self._panics.suspicion
            said = self._panic_said or (found.words if found is not None else "")
            sentence = _PANICKED.format(name=self._name, why=said or "it did not say why")
            return GuestPanicked(f"{sentence}; {verdict}", panic=said)
        if self._process.returncode != 0 or not because.get("guest"):
            return QemuDied(ending)
        if reason == "guest-panic":
            return GuestPanicked(f"{self._name}: the guest's kernel panicked; {verdict}")
        if reason == "guest-reset":
            return GuestReset(f"{_RESET.format(name=self._name)}; {verdict}")
        return GuestShutDown(f"{self._name}: the guest shut down, and {verdict}")


_PANICKED = "{name}: the guest's kernel panicked: {why}"
_RESET = "{name}: the guest was reset without having been told to reboot (a triple fault, a watchdog, a panic)"
