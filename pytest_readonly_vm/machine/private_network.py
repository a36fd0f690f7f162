"""Owns a private network as a test holds it: who is on it, what is wrong with it, what was seen on it."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any, Protocol

from pytest_readonly_vm.errors import NetworkError, VmError
from pytest_readonly_vm.guest.addresses import GuestCard
from pytest_readonly_vm.host.os_errors import explain
from pytest_readonly_vm.machine.member import Member
from pytest_readonly_vm.machine.membership import Membership
from pytest_readonly_vm.machine.moments import Forks, Returning, Rewound
from pytest_readonly_vm.network.subnet import Subnet
from pytest_readonly_vm.network.switch_process import SwitchProcess
from pytest_readonly_vm.qemu.card import Cabling, Card
from pytest_readonly_vm.start.template import seal

_BUFFER = 1 << 20
"""Bytes that may be on their way from a card to the switch."""
_LONGEST_UNREAD, _LOOK = 0.5, 0.001


class Together(Rewound, Protocol):
    """All machines on a network, and on those that these are on, as one: a `Cluster`."""

    def checkpoint(self) -> Returning: ...
    def fork(self, count: int) -> "Forks[Together]": ...
    def network(self, name: str | None = None) -> Any: ...
    def __getitem__(self, key: Any) -> Any: ...


class PrivateNetwork(Membership):
    """A network between machines: nobody else is on it, and nothing of it is visible on the host.

    Attributes: `name`; `subnet` and `subnet6`, its addresses; `domain`, that of the names on it; `mtu`; `history`, what
    was done to it.
    """

    def __init__(
        self,
        name: str,
        switch: SwitchProcess,
        subnet: Subnet,
        *,
        together: Callable[["PrivateNetwork"], Together],
        **options: Any,
    ) -> None:
        super().__init__(name, switch, subnet, **options)
        self._together = together
        self._checkpoints: list[Returning] = []
        switch.process.when_ended(self._tell_members)

    @property
    def pid(self) -> int:
        """Process id of the switch."""
        return self._switch.process.pid

    async def connect(self, member: Member) -> socket.socket:
        """QEMU's end of a new line to a machine's port; the one before, if there is one, is cut. On the loop.

        :raises NetworkError: this process has no descriptors left for it.
        :raises SwitchDied: there is no switch any more.
        """
        try:
            ours, qemus = socket.socketpair()
        except OSError as error:
            raise NetworkError(f"{self.label}: no line to {member.host}: {explain(error) or error}") from None
        with ours:
            try:
                qemus.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
                await self._switch.ask("connect", ours.fileno(), number=member.port, name=member.host)
            except BaseException:
                qemus.close()
                raise
        return qemus

    async def cut(self, member: Member) -> None:
        """Cut the line to a machine's port, whatever holds its other end; on the loop."""
        with contextlib.suppress(NetworkError):  # of a switch that has ended
            await self._switch.ask("disconnect", number=member.port)

    def cabling(self, member: Member) -> Cabling:
        """A machine's card, for this network."""
        card = Card(number=member.card, mac=member.address.mac, mtu=self.mtu, boots=self.services.boot_file is not None)
        return Cabling(card, partial(self.connect, member))

    def guest_card(self, member: Member) -> GuestCard:
        """The same as its guest is to have it."""
        prefix, prefix6 = self.subnet.prefixlen, self.subnet6.prefixlen
        router = self.services.router(self._subnet, self._addresses())
        if not self.is_by_hand or self.services.is_router(member.host):
            router = None
        return GuestCard(
            number=member.card,
            mac=member.address.mac,
            ipv4=IPv4Interface((member.address.ipv4, prefix)) if self.is_by_hand else None,
            ipv6=IPv6Interface((member.address.ipv6, prefix6)) if self.is_by_hand else None,
            router=router.ipv4 if router else None,
            router6=router.ipv6 if router else None,
            mtu=self.mtu,
        )

    @property
    def is_by_hand(self) -> bool:
        """Whether guests' cards are given their addresses by root's hand."""
        return self.configure and not self.services.dhcp

    # One moment of several machines.

    def checkpoint(self) -> Returning:
        """Remember all machines that are on it, and on networks of theirs, at one moment; a `ClusterCheckpoint`.

        What is on its way between them is remembered, too. As `Cluster.checkpoint` in all else.
        """
        checkpoint = self._together(self).checkpoint()
        self._checkpoints.append(checkpoint)
        return checkpoint

    def restore(self, checkpoint: Returning | None = None) -> None:
        """Go back to a checkpoint of these machines, the latest by default; as `Cluster.restore`.

        :raises VmError: there is none, or it is closed.
        """
        self._checkpoints = [one for one in self._checkpoints if one.is_open]
        if checkpoint is None and not self._checkpoints:
            raise VmError(f"{self.label}: there is no checkpoint to go back to")
        found = checkpoint or self._checkpoints[-1]
        found.of.restore(found)

    def fork(self, count: int = 1) -> Forks[Together]:
        """Machines like all those on it, on networks of their own, each a `Cluster`; as `Cluster.fork`."""
        return self._together(self).fork(count)

    async def hold(self) -> None:
        """Keep what comes from now on, once all that was passed on has been taken, or a moment later; on the loop.

        What a guest does not take in that time it would not have taken either way: its card's queue is full.
        """
        await self._switch.ask("hold")
        deadline = asyncio.get_running_loop().time() + _LONGEST_UNREAD
        while await self._switch.ask("unread") and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_LOOK)  # of which nothing tells

    async def under_way(self) -> int:
        """What is kept, as a descriptor of sealed memory; on the loop, once the machines stand still."""
        kept = os.memfd_create("under-way", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            await self._switch.ask("under_way", kept)
            await asyncio.to_thread(seal, kept)
        except BaseException:
            os.close(kept)
            raise
        return kept

    async def go_on(self, under_way: int | None = None) -> None:
        """Pass on what was kept, or what was under way when others were frozen; on the loop."""
        if under_way is None:
            await self._switch.ask("go_on")
            return
        again = os.open(f"/proc/self/fd/{under_way}", os.O_RDONLY | os.O_CLOEXEC)  # with a position of its own
        try:
            await self._switch.ask("go_on", again)
        finally:
            os.close(again)

    async def wait_for_address(self, member: Member, *, timeout: float, of: str) -> None:
        """Until a machine, called so, answers to its address; on the loop.

        :raises NetworkError: nobody has told it to have one.
        :raises WaitTimeout: it does not within so many seconds.
        """
        if self.services.dhcp:
            await self._station.wait_for(member.address, timeout=timeout, of=of)
        elif not self.configure:
            raise NetworkError(f"{self.label} gives nobody an address: say dhcp=True, or leave configure=False away")

    def _tell_members(self) -> None:
        """The switch has ended: whoever waits for a guest hears of it, and not of what comes of it."""
        for member in self._members.values():
            if member.machine is not None:
                member.machine.instance.qmp.liveness.report_end(self._switch.death, passing=True)

    async def end(self) -> None:
        """End it; its machines are alone then. On the loop."""
        for checkpoint in self._checkpoints:
            checkpoint.close()
        for member in self._members.values():
            member.machine = None
        await self._switch.end()
