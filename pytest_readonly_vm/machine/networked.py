"""Owns a machine's places on private networks: its cards there, plugged in and taken out, and what they are called."""

import asyncio
import contextlib
from collections.abc import Iterable

from pytest_readonly_vm.errors import ChannelError, NetworkError, VmError
from pytest_readonly_vm.guest.addresses import BY_ITSELF, set_up_card
from pytest_readonly_vm.guest.files import Progress
from pytest_readonly_vm.host.loop import LoopThread, leave
from pytest_readonly_vm.machine.connections import Reachable
from pytest_readonly_vm.machine.member import Member
from pytest_readonly_vm.machine.places import Places, Told, give_back
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from pytest_readonly_vm.qemu.card import Cabling, Card, plug, unplug
from pytest_readonly_vm.qemu.instance import Instance

_PATIENCE = 60.0
_LETTING_GO = 15.0
"""Seconds, on a computer that runs guests by itself, until a guest has let go of a card."""
_LETTING_GO_OF_VAIN = 6.0
"""The same of one that could not be set up: of such a card it may know nothing."""


class Networked(Reachable):
    """A machine that others can reach over networks of their own."""

    def __init__(self, instance: Instance, *, loop: LoopThread, progress: Progress) -> None:
        super().__init__(instance, loop=loop, progress=progress)
        self._places: dict[PrivateNetwork, Member] = {}
        self._first_places: Places = {}
        """Those that it was started with."""
        self._host = ""
        self.naming = asyncio.Lock()

    def address(self, network: PrivateNetwork, *, version: int = 4) -> str:
        """The machine's address on a private network.

        :param version: of IP, 4 or 6.
        :raises NetworkError: it is not on that network.
        """
        found = network.member_of(self).address
        return str(found.ipv4 if version == 4 else found.ipv6)

    def wait_for_address(self, network: PrivateNetwork, *, timeout: float | None = None) -> str:
        """Wait until the guest has taken the address that the network's DHCP has for it; the address.

        Others can reach the machine then. Where a card is addressed by root's hand, it is so already.

        :param timeout: seconds; by default 60, and more where guests are slow.
        :raises NetworkError: it is not on that network, or that gives nobody an address.
        :raises WaitTimeout: it has not taken it within so many seconds.
        :raises SwitchDied: the network's switch has ended.
        """
        member = network.member_of(self)
        patience = _PATIENCE * self.instance.spec.slowness if timeout is None else timeout
        work = network.wait_for_address(member, timeout=patience, of=self.name)
        self.loop.run(self._liveness.race(work))
        return str(member.address.ipv4)

    def interface(self, network: PrivateNetwork) -> str:
        """What the guest calls its card on a private network: ``eth0``, ``ens7``.

        :raises NetworkError: it is not on that network.
        """
        return network.member_of(self).interface

    def wait_for_boot(self, before: str, timeout: float = 300.0) -> None:
        """Wait until the guest has booted anew and a channel answers; at its serial console root is logged in again.

        Its cards on private networks are set up again, as they were.

        :param before: what `boot_id` was.
        :raises WaitTimeout: it has not in time.
        :raises NetworkError: they cannot be.
        """
        super().wait_for_boot(before, timeout)
        if self._places:
            with self._history.noting("network", f"set up on {', '.join(network.name for network in self._places)}"):
                self.loop.run(self._set_up_all(self._places))

    def plug(self, network: PrivateNetwork, *, address: str | None = None) -> None:
        """Put a card of a private network into the machine while it runs, addressed and known to the others by name.

        It is gone after `reset` and `restore`, which go back to before.

        :param address: an IPv4 address of the network that nobody else has; by default the next one.
        :raises NetworkError: it is on that network already; it takes no card, or has no place for one more.
        """
        if network in self._places:
            raise NetworkError(f"{self.name}: it is on {network.label} already, as {self.address(network)}")
        number = max((card.number for card in self.instance.cards), default=0) + 1
        member = network.join(self._host or self.name, card=number, address=address)
        try:
            self._take({network: member})
        except BaseException:
            network.leave(member)
            raise
        self._places[network] = member

    def unplug(self, network: PrivateNetwork) -> None:
        """Take the machine's card of a private network out, once the guest lets go of it.

        :raises NetworkError: it is not on that network, or the guest does not let go of the card.
        """
        member, card = network.member_of(self), self.card(network)
        with self._history.noting("network", f"taken out of {network.name}"):
            self.loop.run(self._unplug(card, patience=_LETTING_GO * self.instance.spec.slowness))
        network.leave(member)
        self._places.pop(network, None)

    @property
    def places(self) -> Places:
        """Those that it has now, on each network one."""
        return self._places.copy()

    @property
    def first_places(self) -> Places:
        """Those that it was started with."""
        return self._first_places

    def settle(self, places: Places, host: str) -> None:
        """Take the places that it is started with: cards that it has not yet are plugged in, all are set up."""
        self._host = host
        self._first_places = places
        self._places = dict(places)
        self._take(places)

    def _take(self, places: Places) -> None:
        if places:
            with self._history.noting("network", f"plugged into {', '.join(network.name for network in places)}"):
                self.loop.run(self._plug(places))

    def take_over(self, places: Places, host: str) -> None:
        """Have the places that the machine had of which it is a copy, with all that was set up in the guest."""
        self._host = host
        self.go_back_to(places, {network: member.told for network, member in places.items()})

    def settle_again(self) -> None:
        """It has been made anew, as it was started, and has its places of then, as `exchanging` gave them back."""
        self.settle(self._first_places, self._host)

    @property
    def told(self) -> Told:
        """The names of others that its guest knows, of each network."""
        return {network: member.told for network, member in self._places.items()}

    def go_back_to(self, places: Places, told: Told) -> None:
        """It has been made anew with these places, and its guest with all that was set up; of others it knew `told`.

        The places it has by now, as `exchanging` gave them.
        """
        for network, member in places.items():
            member.machine, member.told = self, told.get(network)
        self._places = dict(places)
        for network, member in places.items():
            self.loop.run(network.tell(member))

    def leave_networks(self) -> None:
        """Give its places back."""
        places, self._places = self._places, {}
        give_back(places)

    # On the loop.

    async def _plug(self, places: Places) -> None:
        """Plug in the cards that it has not yet, and set up all."""
        # The guest begins to look for them while QEMU is given them: what it has to start for that takes it a while.
        set_up = asyncio.ensure_future(self._set_up_all(places))
        before = tuple(self.instance.cards)
        there = {card.number for card in before}
        try:
            for network, member in places.items():
                if member.card not in there:
                    await self._plug_card(network.cabling(member))
            await set_up
        except BaseException as error:
            for network, member in places.items():
                await network.cut(member)
            if isinstance(error, Exception):
                await self._take_out([card for card in self.instance.cards if card not in before])
            raise
        finally:
            leave(set_up)

    async def _take_out(self, cards: Iterable[Card]) -> None:
        """Take out what could not be set up, so that its place is free again; what the guest keeps stays."""
        for card in cards:
            with contextlib.suppress(VmError):
                await self._unplug(card, patience=_LETTING_GO_OF_VAIN * self.instance.spec.slowness)

    async def _unplug(self, card: Card, *, patience: float) -> None:
        instance = self.instance
        await self._liveness.race(unplug(instance.qmp, card, name=self.name, timeout=patience))
        instance.cards.remove(card)

    async def _plug_card(self, cabling: Cabling) -> None:
        spec = self.instance.spec
        with await cabling.connect() as line:
            card = await plug(
                self.instance.qmp,
                cabling.card,
                line.fileno(),
                spec.config,
                spec.hypervisor.qemu.arch,
                name=self.name,
            )
        self.instance.cards.append(card)

    async def _set_up_all(self, places: Places) -> None:
        """Have the guest set up cards that it has, or will have in a moment, and the others know its name."""
        for network, member in places.items():
            member.machine = self
            await asyncio.gather(network.introduce(member), self._set_up(network, member))

    async def _set_up(self, network: PrivateNetwork, member: Member) -> None:
        async with self.naming:
            names = network.names()
            work = set_up_card(
                self.commands,
                network.guest_card(member),
                of=self.name,
                names=names,
                mark=network.mark,
                slowness=self.instance.spec.slowness,
            )
            try:
                member.interface = await self._liveness.race(work)
            except ChannelError as error:
                if not network.is_by_hand:  # it may be one that nobody can be root in
                    self._history.note("network", f"its card on {network.name} is left to it: {error}")
                    return
                failure = NetworkError(f"{self.name}: its card on {network.label} is not set up: {error}")
                failure.add_note(BY_ITSELF)
                raise failure from None
            member.told = names
        await network.tell(member)

    def card(self, network: PrivateNetwork) -> Card:
        """Its card on a private network.

        :raises NetworkError: it is not on that network.
        """
        number = network.member_of(self).card
        return next(card for card in self.instance.cards if card.number == number)
