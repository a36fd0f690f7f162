"""Owns what "booted" means: strategies that wait until a guest is ready, each with a sentence for when it is not."""

import re
from typing import Protocol

from pytest_readonly_vm.channels.console import Console
from pytest_readonly_vm.channels.qmp import Qmp

# Waits of this module have no deadline of their own: the boot's bounds them all.
_NO_DEADLINE = 1e6


class Readiness(Protocol):
    """One meaning of ready."""

    def describe(self) -> str:
        """What is waited for, as the end of a sentence."""

    async def wait(self, qmp: Qmp, console: Console) -> None:
        """Return when the guest is ready; runs on the loop and is cancelled at the boot's deadline."""


class ConsolePattern:
    """The serial console shows a pattern."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern, re.MULTILINE)

    def describe(self) -> str:
        return f"the console to show {self._pattern.pattern!r}"

    async def wait(self, qmp: Qmp, console: Console) -> None:
        await console.found(self._pattern, _NO_DEADLINE)


class EventSeen:
    """QEMU reports an event, such as ``NIC_RX_FILTER_CHANGED`` when a guest's driver sets up its network card."""

    def __init__(self, name: str) -> None:
        self._name = name

    def describe(self) -> str:
        return f"the event {self._name}"

    async def wait(self, qmp: Qmp, console: Console) -> None:
        await qmp.next_event(self._name, None, _NO_DEADLINE)


class Immediately:
    """The guest counts as ready as soon as QEMU runs it."""

    def describe(self) -> str:
        return "nothing"

    async def wait(self, qmp: Qmp, console: Console) -> None:
        return


def readiness(text: str) -> Readiness:
    """The strategy that a checked value of the setting ``ready`` names."""
    kind, _, argument = text.partition(":")
    if kind == "console":
        return ConsolePattern(argument)
    if kind == "event":
        return EventSeen(argument)
    return Immediately()
