"""Owns what is known of a guest while it boots."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_readonly_vm.channels.choice import ChannelChoice
from pytest_readonly_vm.channels.console import Console
from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.guest.commands import Commands
from pytest_readonly_vm.guest.guest import Guest
from pytest_readonly_vm.qemu.instance import Instance

NO_DEADLINE = 1e6
"""Seconds. Waits of a boot have no deadline of their own: the boot's bounds them all."""


@dataclass(slots=True)
class BootingGuest:
    """A machine whose guest is booting, and what has been learnt of it so far."""

    instance: Instance
    make_vm: Callable[[], Guest]
    """Makes what a test would get."""
    commands: Commands
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds by phase, in order."""
    failed_units: list[str] = field(default_factory=list)
    deadline: float = NO_DEADLINE
    """When the boot must have ended, by the loop's clock."""

    typing: asyncio.Future[None] | None = None
    """A login at the console that may lead to a channel."""

    @property
    def vm(self) -> Guest:
        """The `VirtualMachine`."""
        return self.make_vm()

    @property
    def qmp(self) -> Qmp:
        return self.instance.qmp

    @property
    def console(self) -> Console:
        return self.instance.console

    @property
    def channels(self) -> ChannelChoice:
        return self.instance.channels

    @property
    def has_open_port(self) -> bool:
        """Whether somebody in the guest has opened the port of a channel, which may answer soon."""
        return any(event.name == "VSERPORT_CHANGE" for event in self.qmp.events)
