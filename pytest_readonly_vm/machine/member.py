"""Owns a machine's place on one private network."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from pytest_readonly_vm.guest.commands import Commands
from pytest_readonly_vm.network.subnet import CardAddress
from pytest_readonly_vm.qemu.instance import Instance


class Machine(Protocol):
    """What a network needs of a `VirtualMachine`."""

    name: str
    instance: Instance
    commands: Commands
    naming: asyncio.Lock
    """Whoever changes the names that its guest knows holds it."""


@dataclass(slots=True, weakref_slot=True, eq=False, kw_only=True)
class Member:
    """A machine's place on one network."""

    port: int
    """Of the switch."""
    host: str
    """Its name there."""
    address: CardAddress
    card: int
    """The number of its card, among those of the machine."""
    machine: Machine | None = None
    """None before it is ready."""
    interface: str = ""
    """What its guest calls the card, once that is set up."""
    told: str | None = None
    """The names of others that its guest knows."""
