"""Owns a machine's cards on private networks, as QEMU has them: on its command line, or plugged in while it runs.

Each is a virtio-net device whose frames go over a stream to a switch (``-netdev socket``, which, unlike ``stream``, can
be given a descriptor while QEMU runs: in QEMU 7.2 that one connects in a thread, which has no monitor to ask for it).
"""

import asyncio
import re
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import NetworkError, QmpError, WaitTimeout
from pytest_readonly_vm.qemu import board

_BOOTS_AFTER = 10
"""Where cards are among what firmware boots from: behind disks and CDs, which it passes over while they are blank."""
_CARD = re.compile(r",netdev=lan\d+,id=card\d+,")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_WORD = re.compile(r"[A-Za-z0-9.:_-]{1,40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A card as a guest sees it."""

    number: int
    """Among those of its machine, from 1 on."""
    mac: str
    mtu: int | None = None
    boots: bool = False
    """Whether the machine's firmware may boot over it."""
    place: tuple[str, str] | None = None
    """The bus that it is on and its address there, once that is known: a frozen guest looks for it there again."""

    @property
    def device(self) -> str:
        """QEMU's name for it."""
        return f"card{self.number}"

    @property
    def line(self) -> str:
        """QEMU's name for its line."""
        return f"lan{self.number}"

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Card":
        """One that has a place, of what `dataclasses.asdict` made of it, which may be a stranger's.

        :raises ValueError: it is none, or says what is not fit for QEMU's command line.
        """
        number, mtu, place = facts["number"], facts["mtu"], facts["place"]
        if not isinstance(place, list | tuple) or len(place) != 2:
            raise ValueError("a network card that is nowhere")
        bus, address = place
        numbers = [number] if mtu is None else [number, mtu]
        if not all(type(one) is int and 0 < one < 65536 for one in numbers) or type(facts["boots"]) is not bool:
            raise ValueError("a network card whose numbers make no sense")
        for word, form in ((facts["mac"], _MAC), (bus, _WORD), (address, _WORD)):
            if not isinstance(word, str) or not form.fullmatch(word):
                raise ValueError("a network card with words that QEMU has not")
        return cls(number=number, mac=facts["mac"], mtu=mtu, boots=facts["boots"], place=(bus, address))


Connect = Callable[[], Coroutine[Any, Any, socket.socket]]
"""Gives QEMU's end of a new line to the switch, for whoever calls to close; the one before leads nowhere then."""


@dataclass(frozen=True, slots=True)
class Cabling:
    """A card, and how its line is had."""

    card: Card
    connect: Connect


@dataclass(frozen=True, slots=True)
class CardWire:
    """A card on QEMU's command line, and an inherited descriptor of its line; None for one that leads nowhere."""

    card: Card
    descriptor: int | None


def card_arguments(wires: tuple[CardWire, ...], bus: str) -> tuple[str, ...]:
    """QEMU's arguments for cards. Those that have no place yet take the next free ones."""
    arguments: list[str] = []
    for wire in wires:
        line = f"hubport,hubid={wire.card.number}" if wire.descriptor is None else f"socket,fd={wire.descriptor}"
        properties = ",".join(f"{name}={value}" for name, value in _properties(wire.card, bus).items())
        arguments += ["-netdev", f"{line},id={wire.card.line}", "-device", f"virtio-net-{bus},{properties}"]
    return tuple(arguments)


def is_card(device: str) -> bool:
    """Whether a ``-device`` of a command line is one of these."""
    return _CARD.search(device) is not None


def _properties(card: Card, bus: str) -> Mapping[str, str]:
    # Not announced: a copy would be told at once to do so, and its services react. The switch finds it all the same.
    properties = {"netdev": card.line, "id": card.device, "mac": card.mac, "guest_announce": "off"}
    if card.mtu is not None:
        properties["host_mtu"] = str(card.mtu)
    if card.boots:
        properties["bootindex"] = str(_BOOTS_AFTER + card.number)
    elif bus == "pci":
        properties["romfile"] = ""
    if card.place is not None:
        properties["bus"], address = card.place
        properties["devno" if bus == "ccw" else "addr"] = address
    return properties


async def plug(qmp: Qmp, card: Card, line: int, config: VmConfig, arch: str, *, name: str) -> Card:
    """Plug a card into a machine that runs, with a descriptor of its line; the card with its place. On the loop.

    :raises NetworkError: the machine takes none, or has no place left.
    """
    bus = board.virtio_bus(config, arch)
    ports = board.spare_ports(config, arch)
    if not board.takes_cards(config, arch):
        kind = board.machine_type(config, arch)
        raise NetworkError(
            f"{name}: nothing can be plugged into a machine of the type {kind} while it runs; say the setting "
            "networks, or networks=[…] where it is started, with start=cold"
        )
    await qmp.give(line, card.line)
    await qmp.command("netdev_add", {"type": "socket", "id": card.line, "fd": card.line})
    places: list[tuple[str, str] | None] = [(port, "0x0") for port in ports]
    refusals = []
    for place in places or [None]:
        properties = _properties(replace(card, place=place), bus)
        numbers = {name: int(properties[name]) for name in ("host_mtu", "bootindex") if name in properties}
        typed = {**properties, "guest_announce": False, **numbers}
        try:
            await qmp.command("device_add", {"driver": f"virtio-net-{bus}", **typed})
        except QmpError as refused:
            refusals.append(refused)
            continue
        return replace(card, place=place or await found_place(qmp, card, bus))
    await qmp.command("netdev_del", {"id": card.line})
    why = refusals[-1].description
    if len(ports) == len(refusals) > 0:
        why = f"each takes one of {len(ports)} spare ports of PCI Express, and all have one"
    raise NetworkError(f"{name}: no place is left for a card: {why}") from None


async def found_place(qmp: Qmp, card: Card, bus: str) -> tuple[str, str]:
    """Where a card is that QEMU has put somewhere; on the loop."""

    async def told(name: str) -> str:
        return str(await qmp.command("qom-get", {"path": f"/machine/peripheral/{card.device}", "property": name}))

    on = (await told("parent_bus")).rpartition("/")[2]
    return on, await told("dev_id" if bus == "ccw" else "legacy-addr")


async def unplug(qmp: Qmp, card: Card, *, name: str, timeout: float) -> None:
    """Have the guest let go of a card, and take it out; on the loop. An earlier try is gone on with.

    :param timeout: seconds for which the guest may keep it. By PCI Express it takes five from the press of a button.
    :raises NetworkError: the guest does not let go of it.
    """
    if await _is_there(qmp, card):
        try:
            await qmp.command("device_del", {"id": card.device})
        except QmpError as refused:
            if "already in the process of unplug" not in refused.description:
                raise
    try:
        async with asyncio.timeout(timeout):
            while await _is_there(qmp, card):  # an event may be that of an earlier card of this name
                await qmp.next_event("DEVICE_DELETED", {"device": card.device}, timeout, of_guest=True)
    except (TimeoutError, WaitTimeout):
        error = NetworkError(f"{name}: the guest does not let go of its card {card.mac} within {timeout:g} s")
        error.add_note("a kernel that was built without hot-plugging never does: it has nothing in /sys/bus/pci/slots")
        raise error from None
    await qmp.command("netdev_del", {"id": card.line})


async def _is_there(qmp: Qmp, card: Card) -> bool:
    plugged = await qmp.command("qom-list", {"path": "/machine/peripheral"})
    return any(one["name"] == card.device for one in plugged)


async def set_carrier(qmp: Qmp, card: Card, *, up: bool) -> None:
    """Put a cable into a card, or pull it; on the loop."""
    await qmp.command("set_link", {"name": card.device, "up": up})
