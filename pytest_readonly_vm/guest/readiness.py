"""Owns what "booted" means: strategies that wait until a guest is ready, each with a sentence for when it is not.

A strategy is any object with the two methods of `Readiness`; these are the ones that come with the plugin.
"""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pytest_readonly_vm.channels.channel import Channel
from pytest_readonly_vm.errors import ChannelError, GuestLacks, UnitFailed
from pytest_readonly_vm.guest.booting_guest import NO_DEADLINE, BootingGuest
from pytest_readonly_vm.guest.guest import Guest
from pytest_readonly_vm.guest.inits import AGAIN, HAS_BOOTED
from pytest_readonly_vm.guest.prompts import Prompts, last_line
from pytest_readonly_vm.guest.units import Units
from pytest_readonly_vm.guest.waits import Waits
from pytest_readonly_vm.host.loop import cancel

_POLL = 0.05
_GRACE = {False: 1.0, True: 20.0}
"""Seconds that a channel has when a login prompt shows: if there is no sign of one, and if there is."""

_MARGIN = 0.5
"""Seconds before a boot's deadline at which a guest with a login prompt is not given any longer for a channel."""


class Readiness(Protocol):
    """One meaning of ready."""

    def describe(self) -> str:
        """What is waited for, as the end of a sentence."""

    async def wait(self, guest: BootingGuest) -> None:
        """Return when the guest is ready; runs on the loop and is cancelled at the boot's deadline."""


@dataclass(frozen=True, slots=True)
class ConsolePattern:
    """The serial console shows a pattern."""

    pattern: str

    def describe(self) -> str:
        return f"the console to show {self.pattern!r}"

    async def wait(self, guest: BootingGuest) -> None:
        await guest.console.seen(re.compile(self.pattern, re.MULTILINE), NO_DEADLINE)


@dataclass(frozen=True, slots=True)
class EventSeen:
    """QEMU reports an event, such as ``NIC_RX_FILTER_CHANGED`` when a guest's driver sets up its network card."""

    event: str

    def describe(self) -> str:
        return f"the event {self.event}"

    async def wait(self, guest: BootingGuest) -> None:
        await guest.qmp.next_event(self.event, None, NO_DEADLINE)


@dataclass(frozen=True, slots=True)
class Immediately:
    """The guest counts as ready as soon as QEMU runs it."""

    def describe(self) -> str:
        return "nothing"

    async def wait(self, guest: BootingGuest) -> None:
        return


@dataclass(frozen=True, slots=True)
class ChannelAnswers:
    """A channel answers: a certain one, or any that the machine may have."""

    channel: str | None = None

    def describe(self) -> str:
        return f"the channel {self.channel} to answer" if self.channel else "a channel to answer"

    async def wait(self, guest: BootingGuest) -> None:
        await _found(guest, self.channel)


@dataclass(frozen=True, slots=True)
class SystemdFinished:
    """The channel answers and systemd has started all that it starts at boot, or failed to.

    Of another init it is seen from outside when it has come to its end with that: see `inits`.
    """

    def describe(self) -> str:
        return "a channel to answer and the guest's init to finish booting"

    async def wait(self, guest: BootingGuest) -> None:
        await _found(guest, None)
        while (result := await guest.commands.run(HAS_BOOTED, check=False)).exit_code == AGAIN:
            await asyncio.sleep(_POLL)
        state, *rest = result.stdout.splitlines() or ["none"]
        if state != "none" and len(rest) >= 3:
            _note_phases(guest, rest)
            guest.failed_units += [line.split()[0] for line in rest[3:] if line.strip()]


@dataclass(frozen=True, slots=True)
class PortListens:
    """Somebody in the guest listens on a TCP port."""

    port: int

    def describe(self) -> str:
        return f"a listener on TCP port {self.port}"

    async def wait(self, guest: BootingGuest) -> None:
        await _found(guest, None)
        await Waits(guest.commands, guest.instance.name).for_port(self.port, NO_DEADLINE)


@dataclass(frozen=True, slots=True)
class UnitActive:
    """A systemd unit is active; one that has failed, or that is not there when the guest has booted, ends the wait."""

    unit: str

    def describe(self) -> str:
        return f"the unit {self.unit} to be active"

    async def wait(self, guest: BootingGuest) -> None:
        await _found(guest, None)
        await Units(guest.commands, guest.instance.name).until_active(self.unit, NO_DEADLINE)


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the user's, called with the machine on a thread of its own, returns. It should wait by itself."""

    function: Callable[[Guest], object]

    def describe(self) -> str:
        return f"the function {getattr(self.function, '__qualname__', self.function)} to return"

    async def wait(self, guest: BootingGuest) -> None:
        await asyncio.to_thread(self.function, guest.vm)


@dataclass(frozen=True, slots=True, init=False)
class AllOf:
    """All of several, each from the beginning."""

    parts: tuple[Readiness, ...]

    def __init__(self, *parts: Readiness) -> None:
        object.__setattr__(self, "parts", parts)

    def describe(self) -> str:
        return " and ".join(part.describe() for part in self.parts)

    async def wait(self, guest: BootingGuest) -> None:
        async with asyncio.TaskGroup() as group:
            for part in self.parts:
                group.create_task(part.wait(guest))


@dataclass(frozen=True, slots=True, init=False)
class AnyOf:
    """Whichever of several comes first; one that fails is out of the race."""

    parts: tuple[Readiness, ...]

    def __init__(self, *parts: Readiness) -> None:
        object.__setattr__(self, "parts", parts)

    def describe(self) -> str:
        return " or ".join(part.describe() for part in self.parts)

    async def wait(self, guest: BootingGuest) -> None:
        await _first([part.wait(guest) for part in self.parts])


@dataclass(frozen=True, slots=True)
class Usual:
    """`SystemdFinished`; or a login prompt on the console of a guest in which no channel answers."""

    def describe(self) -> str:
        return f"{SystemdFinished().describe()}, or a login prompt on the console"

    async def wait(self, guest: BootingGuest) -> None:
        if not guest.channels.is_possible:
            await _login_prompt(guest)
            return
        booted = asyncio.ensure_future(SystemdFinished().wait(guest))
        prompt = asyncio.ensure_future(_login_prompt(guest))
        try:
            await asyncio.wait((booted, prompt), return_when=asyncio.FIRST_COMPLETED)
            hopeful = guest.has_open_port
            if not booted.done() and guest.typing is not None and guest.instance.config.login is not None:
                hopeful = await _progress(guest, booted, guest.typing)
            if not booted.done():
                try:
                    async with asyncio.timeout(min(_GRACE[hopeful], _time_left(guest))):
                        await _found(guest, None)
                except (TimeoutError, ChannelError):
                    return
            await booted
        finally:
            await cancel(booted, prompt)


def readiness(wanted: object) -> Readiness:
    """The strategy that a checked value of the setting ``ready`` means."""
    if not isinstance(wanted, str):
        return wanted if hasattr(wanted, "wait") else Function(wanted)  # type: ignore[return-value, arg-type]
    kind, _, argument = wanted.partition(":")
    named: dict[str, Callable[[], Readiness]] = {
        "console": lambda: ConsolePattern(argument),
        "event": lambda: EventSeen(argument),
        "port": lambda: PortListens(int(argument)),
        "unit": lambda: UnitActive(argument),
        "channel": ChannelAnswers,
        "agent": lambda: ChannelAnswers("agent"),
        "shell": lambda: ChannelAnswers("shell"),
        "ssh": lambda: ChannelAnswers("ssh"),
        "systemd": SystemdFinished,
        "none": Immediately,
        "auto": Usual,
    }
    return named[kind]()


async def _login_prompt(guest: BootingGuest) -> None:
    """Wait until the console shows one, and leave it to the test to read."""
    console, prompts = guest.console, Prompts.of(guest.instance.config)
    looked_at = 0
    while True:
        news = console.next_news()
        text = console.since(looked_at)
        if prompts.has_login(text):
            return
        looked_at = console.position - len(last_line(text))
        await news.wait()


async def _progress(guest: BootingGuest, *tasks: asyncio.Future[Any]) -> bool:
    """Wait until one of these is done, as long as the console has news meanwhile; whether one is."""
    while not any(task.done() for task in tasks):
        news: asyncio.Future[Any] = asyncio.ensure_future(guest.console.next_news().wait())
        patience = min(_GRACE[True], _time_left(guest))
        done, _ = await asyncio.wait((*tasks, news), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        news.cancel()
        if not done:
            return False
    return True


def _time_left(guest: BootingGuest) -> float:
    return max(guest.deadline - asyncio.get_running_loop().time() - _MARGIN, 0.0)


async def _found(guest: BootingGuest, channel: str | None) -> Channel:
    return await guest.channels.channel(NO_DEADLINE, only=channel)


async def _first(waits: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Wait for the first that succeeds, or for the failure of all."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    failures: list[Exception] = []
    try:
        for next_one in asyncio.as_completed(tasks):
            try:
                return await next_one
            except (ChannelError, GuestLacks, UnitFailed) as error:
                failures.append(error)
        raise failures[-1]
    finally:
        await cancel(*tasks)


def _note_phases(guest: BootingGuest, lines: list[str]) -> None:
    """From the guest's uptime and systemd's marks: firmware and bootloader, kernel and initramfs, userspace."""
    uptime = float(lines[0])
    marks = dict(line.split("=", 1) for line in lines[1:3])
    userspace, finish = (int(marks.get(f"{name}TimestampMonotonic", 0)) / 1e6 for name in ("Userspace", "Finish"))
    since_start = time.monotonic() - guest.instance.started
    guest.phases["firmware"] = max(since_start - uptime, 0.0)
    if userspace:
        guest.phases["kernel"] = userspace
        guest.phases["userspace"] = max(finish - userspace, 0.0)
        guest.phases["channel"] = max(uptime - max(finish, userspace), 0.0)
