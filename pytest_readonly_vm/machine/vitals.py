"""Owns the watch over a guest's life: what of QEMU's events and of the console's text means that it has come to an end.

The events: https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html (``GUEST_PANICKED``, ``BLOCK_IO_ERROR``,
``SHUTDOWN``, ``RESET``). The console's words are those of the kernels' own sources.
"""

import asyncio
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_readonly_vm.channels.console import Console, shown
from pytest_readonly_vm.channels.qmp import Qmp, QmpEvent
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

_STAMP = r"^(?:\[ *\d+\.\d+\](?:\[[^\]\n]*\])? *)?"  # as Linux, which may add a thread, and NetBSD begin lines
_PANICS = (
    _STAMP + r"(Kernel panic - not syncing: [^\n]+)\n",
    # What follows tells the line from one of a Go program. FreeBSD; OpenBSD; NetBSD.
    _STAMP + r"(panic: [^\n]+)\n(?:cpuid = |time = |Stopped at |" + _STAMP[1:] + r"cpu\d+: Begin traceback)",
    r"(\*\*\* STOP: 0x[0-9A-Fa-f]+[^\n]*)\n",  # Windows, by its emergency services
)
_ORDERLY = re.compile(r"reboot: |Rebooting|Requesting system reboot|The system will reboot|syncing disks")
"""Words that a guest says when it reboots as somebody told it to."""

_TRACE = 0.2
"""Seconds that a kernel has to print where it was, unless it tells sooner that it is done with that."""

_LOOKED_BACK = 8192
"""Characters of the console's latest text in which the line of a panic may have begun."""


class Vitals:
    """Hears of everything that one machine reports, and tells its fate. For the loop."""

    def __init__(
        self,
        process: Process,
        qmp: Qmp,
        console: Console,
        *,
        folder: Path,
        name: str,
        panic_patterns: Sequence[str] = (),
    ) -> None:
        """`folder` is where the guest's writes go; `panic_patterns` mean a panic beside those that are known."""
        self._process = process
        self._qmp = qmp
        self._console = console
        self._folder = folder
        self._name = name
        self._panic = re.compile(
            "|".join((*_PANICS, *(rf"({pattern})(?=[^\n]*\n)" for pattern in panic_patterns))), re.MULTILINE
        )
        self._recent = ""
        self._panic_said: str | None = None
        self._trace: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._is_silent_since_reset = False
        self._shutdown: QmpEvent | None = None
        qmp.listeners.append(self._hear)
        console.listeners.append(self._read)
        process.coroner = self._cause_of_death

    def _hear(self, event: QmpEvent) -> None:
        # Not as a mapping of functions: what an event means is best read where it is told.
        fate, data = self._qmp.fate, event.data
        if event.name == "GUEST_PANICKED" and data.get("action") != "run":  # which somebody has asked for
            self._console.catch_up()  # the kernel says it on its console first
            self._die_of_panic()
        elif event.name == "BLOCK_IO_ERROR" and data.get("action") == "stop":
            self._is_paused = True
            fate.befall(self._evident(GuestPaused, self._io_error(event)))
        elif event.name == "RESUME" and self._is_paused:
            self._is_paused = False
            fate.heal()
        elif event.name == "SHUTDOWN":
            self._shutdown = event
        elif event.name == "RESET":
            self._console.catch_up()
            if self._panic_said is not None:
                self._die_of_panic()
            had_ended = fate.cause is not None
            fate.begin_anew()
            # A PC's firmware that finds itself run before asks for one more reset, before it says anything.
            is_own = bool(data.get("guest")) and not self._is_silent_since_reset
            if is_own and not had_ended and not fate.expects_reset and not _ORDERLY.search(self._recent):
                fate.befall(self._evident(GuestReset, _RESET.format(name=self._name)), passing=True)
            self._recent, self._is_silent_since_reset, self._panic_said = "", True, None

    def _read(self, text: str) -> None:
        self._is_silent_since_reset = False
        self._recent = (self._recent + text)[
            -_LOOKED_BACK - len(text) :
        ]  # a line may end in another piece than it began
        if self._panic_said is None and (match := self._panic.search(self._recent)):
            words = shown(next(group for group in (*match.groups(), match[0]) if group)).strip()
            self._panic_said = words.removeprefix("Kernel panic - not syncing: ").removeprefix("panic: ")
            self._trace = asyncio.get_running_loop().call_later(_TRACE, self._die_of_panic)

    def _die_of_panic(self) -> None:
        if self._trace is not None:
            self._trace.cancel()
        self._panic_said = said = self._panic_said or ""
        if self._qmp.fate.cause is None:
            sentence = _PANICKED.format(name=self._name, why=said or "it did not say why")
            self._qmp.chronicle.note("death", sentence)
            self._qmp.fate.befall(lambda: self._process.with_evidence(GuestPanicked(sentence, panic=said)))

    def _evident(self, kind: Callable[[str], VmError], sentence: str) -> Callable[[], VmError]:
        self._qmp.chronicle.note("death", sentence)
        return lambda: self._process.with_evidence(kind(sentence))

    def _io_error(self, event: QmpEvent) -> str:
        data = event.data
        disk = data.get("device") or data.get("node-name") or "a disk"
        verb = {"read": "read", "write": "written"}.get(str(data.get("operation")), "used")
        reason = data.get("reason") or "I/O error"
        sentence = f"{self._name}: QEMU has paused the guest: {disk} cannot be {verb}: {reason}"
        if data.get("nospace"):
            system = os.statvfs(self._folder)
            free = system.f_bavail * system.f_frsize >> 20
            sentence += f" (the guest's writes go to {self._folder}, where {free} MiB are free; see the setting tmpdir)"
        return sentence

    def _cause_of_death(self, ending: str) -> GuestDied:
        """The error of whoever waited when QEMU ended; `ending` is the sentence that says how."""
        because = self._shutdown.data if self._shutdown else {}
        reason = str(because.get("reason", ""))
        verdict = ending.removeprefix(f"{self._name}: ")
        if self._panic_said is not None:
            sentence = _PANICKED.format(name=self._name, why=self._panic_said or "it did not say why")
            return GuestPanicked(f"{sentence}; {verdict}", panic=self._panic_said)
        if self._process.returncode != 0 or not because.get("guest"):
            return QemuDied(ending)
        if reason == "guest-panic":
            return GuestPanicked(f"{self._name}: the guest's kernel panicked; {verdict}")
        if reason == "guest-reset":
            return GuestReset(f"{_RESET.format(name=self._name)}; {verdict}")
        return GuestShutDown(f"{self._name}: the guest shut down, and {verdict}")


_PANICKED = "{name}: the guest's kernel panicked: {why}"
_RESET = "{name}: the guest was reset without having been told to reboot (a triple fault, a watchdog, a panic)"
