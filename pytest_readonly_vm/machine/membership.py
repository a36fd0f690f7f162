"""Owns who is on a private network: places that machines take and leave, and what they know of each other."""

import asyncio
import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from pytest_readonly_vm.errors import NetworkError, VmError
from pytest_readonly_vm.guest.addresses import set_names
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.machine.disturbed import Disturbed
from pytest_readonly_vm.machine.member import Machine, Member
from pytest_readonly_vm.machine.station import Station
from pytest_readonly_vm.network.services import Services, domain_of
from pytest_readonly_vm.network.subnet import CardAddress, Subnet
from pytest_readonly_vm.network.switch_process import SwitchProcess
from pytest_readonly_vm.start.cluster_state import MemberState, NetworkState

_PATIENCE = 10.0
"""Seconds, on a computer that runs guests by itself, for which a machine that comes waits for others to hear of it."""


class Membership(Disturbed):
    """A network and its machines."""

    def __init__(
        self,
        name: str,
        switch: SwitchProcess,
        subnet: Subnet,
        *,
        loop: LoopThread,
        output_guard: OutputGuard,
        mtu: int | None,
        configure: bool,
        services: Services,
    ) -> None:
        """`configure`: whether guests' cards are given their addresses, and the others' names, by root's hand, where
        guests do not come by them through the network's services.
        """
        super().__init__(name, switch, loop=loop, output_guard=output_guard)
        self.domain = domain_of(name)
        self.mtu = mtu
        self.configure = configure
        self.services = services
        self._subnet = subnet
        self._ports = itertools.count(1)
        self._lock = threading.Lock()
        self._members: dict[str, Member] = {}  # never changed, but replaced: others go through them meanwhile
        self._station = Station(switch, services, subnet, domain=self.domain, mtu=mtu, history=self.history)

    def __repr__(self) -> str:
        return f"<PrivateNetwork {self.name} {self.subnet} of {', '.join(self._members) or 'nobody'}>"

    @property
    def subnet(self) -> IPv4Network:
        return self._subnet.ipv4

    @property
    def subnet6(self) -> IPv6Network:
        return self._subnet.ipv6

    @property
    def number(self) -> int:
        """By which its addresses go."""
        return self._subnet.number

    @property
    def hosts(self) -> Mapping[str, Machine]:
        """The machines on it, by their names there."""
        return {host: member.machine for host, member in self._members.items() if member.machine is not None}

    # Machines come and go.

    def join(self, host: str, *, card: int, address: str | None = None) -> Member:
        """Take a place for a machine that is to be on it.

        :param host: its name, which is made one that a host can have, and that no other has here.
        :param card: the number of its card, among those of the machine.
        :raises NetworkError: the address is taken, or none of this network's, or there is none left.
        """
        with self._lock:
            port, name = next(self._ports), self._free_name(host)
            if address is None and self.services.is_router(name):
                address = str(self._subnet.router)
            found = self._subnet.address(
                port - 1, address or self._free_address(port - 1), advertised=self.services.dhcp
            )
            if self._is_taken(found):
                raise NetworkError(f"{self.label}: {found.ipv4} is another machine's")
            if self.services.is_any and found.ipv4 == self._subnet.server[0]:
                raise NetworkError(f"{self.label}: {found.ipv4} is that of the network's own services")
            member = Member(port=port, host=name, address=found, card=card)
            self._members = {**self._members, member.host: member}
            self._hosts[port] = member.host
            self._tell_station()
        return member

    def _is_taken(self, address: CardAddress) -> bool:
        return any(member.address.ipv4 == address.ipv4 for member in self._members.values())

    def _free_address(self, card: int) -> str:
        taken = {member.address.ipv4 for member in self._members.values()}
        router = self.services.router(self._subnet, self._addresses())
        if router is not None:
            taken.add(router.ipv4)
        return str(self._subnet.free(card, taken))

    def _free_name(self, host: str) -> str:
        legal = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in host.lower())
        legal = legal.strip("-")[:60] or "vm"
        names = itertools.chain((legal,), (f"{legal}-{number}" for number in itertools.count(2)))
        return next(name for name in names if name not in self._members)

    def leave(self, member: Member) -> None:
        """Give a machine's place back; if it lives on without it, the others know its name no more."""
        with self._lock:
            self._members = {host: one for host, one in self._members.items() if one is not member}
            self._tell_station()
        if (machine := member.machine) is None or not machine.instance.is_alive:
            return
        if all(card.number != member.card for card in machine.instance.cards):  # else it is about to end
            self._loop.run(self.introduce(member))

    def rejoin(self, member: Member) -> None:
        """Take a place again that was given back; nothing is done if it was not.

        :raises NetworkError: somebody else has its name or its address now.
        """
        with self._lock:
            if self._members.get(member.host) is member:
                return
            if member.host in self._members:
                raise NetworkError(f"{self.label}: another machine is called {member.host} by now")
            if self._is_taken(member.address):
                raise NetworkError(f"{self.label}: {member.address.ipv4} is another machine's by now")
            self._members = {**self._members, member.host: member}
            self._tell_station()
        self._loop.run(self.introduce(member))  # to those that have been told that it has left

    def _tell_station(self) -> None:
        """Under the lock, so that what it is told last is the latest."""
        self._station.tell(self._addresses(), self._loop)

    def _addresses(self) -> dict[str, CardAddress]:
        return {host: member.address for host, member in self._members.items()}

    # Their names.

    @property
    def mark(self) -> str:
        """By what the lines of this network are known in a guest's /etc/hosts."""
        return f"private network {self._subnet.number}"

    def names(self) -> str | None:
        """Those of all machines, as lines for /etc/hosts; None if guests are not to be told."""
        if not self.configure or (self.services.dhcp and self.services.dns):
            return None
        lines = [
            f"{address} {member.host} # {self.mark}\n"
            for member in self._members.values()
            for address in (member.address.ipv4, member.address.ipv6)
        ]
        return "".join(lines)

    async def introduce(self, newcomer: Member) -> None:
        """Tell the others of a machine that has come or gone; on the loop. Who cannot hear does with the next."""
        # Those that are being set up tell themselves in the end, of all that came meanwhile.
        others = [member for member in self._members.values() if member is not newcomer and member.interface]
        await asyncio.gather(*map(self.tell, others))

    async def tell(self, member: Member) -> None:
        """Have a machine's guest know the names of all that are there by now, if it can hear; on the loop."""
        if (machine := member.machine) is None:
            return
        async with machine.naming:
            while (names := self.names()) is not None and names != member.told:
                patience = _PATIENCE * machine.instance.spec.slowness
                work = set_names(machine.commands, names=names, mark=self.mark, timeout=patience)
                try:
                    await machine.instance.qmp.liveness.race(work)
                except VmError as error:
                    machine.instance.qmp.history.note("network", f"{self.name}: not told the names of others: {error}")
                    return
                member.told = names

    def member_of(self, machine: Machine | str) -> Member:
        """:raises NetworkError: a machine that is not on this network."""
        for member in self._members.values():
            if member.machine is machine or member.host == machine:
                return member
        name = machine if isinstance(machine, str) else getattr(machine, "name", repr(machine))
        raise NetworkError(f"{self.label}: {name} is not on it; {', '.join(self._members) or 'nobody'} is")

    # While they are frozen.

    def state(self, machines: Sequence[Machine]) -> NetworkState:
        """Who of these is where on it."""
        members = [
            MemberState(
                machine=machines.index(member.machine),
                port=member.port,
                host=member.host,
                mac=member.address.mac,
                ipv4=str(member.address.ipv4),
                ipv6=str(member.address.ipv6),
                card=member.card,
                interface=member.interface,
                told=member.told,
            )
            for member in self._members.values()
            if member.machine in machines
        ]
        return NetworkState(
            name=self.name,
            number=self._subnet.number,
            subnet=str(self.subnet),
            subnet6=str(self.subnet6),
            options={"mtu": self.mtu, "configure": self.configure, "services": asdict(self.services)},
            members=tuple(members),
        )

    def seat(self, state: MemberState) -> Member:
        """Take a place again that was another machine's of which this one is a copy, on a network like this."""
        address = CardAddress(state.mac, IPv4Address(state.ipv4), IPv6Address(state.ipv6))
        member = Member(
            port=state.port,
            host=state.host,
            address=address,
            card=state.card,
            interface=state.interface,
            told=state.told,
        )
        with self._lock:
            self._members = {**self._members, state.host: member}
            self._hosts[state.port] = state.host
            self._ports = itertools.count(max(one.port for one in self._members.values()) + 1)
            self._tell_station()
        return member
